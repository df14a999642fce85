//! What an ELF header says of a program: its machine, and whether something must load it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Of one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// In Go's words.
    pub(super) arch: &'static str,
    /// What loads it, such as `/lib64/ld-linux-x86-64.so.2`; `None` = it is static.
    pub(super) interpreter: Option<String>,
}

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Of a program header's kind.
const INTERPRETER: u32 = 3;
/// More are no program that a linker makes.
const MAX_PROGRAM_HEADERS: u64 = 64;
const MAX_INTERPRETER: u64 = 256;

/// Reads a little of the file; `None` = it is no 64-bit little-endian ELF of a known machine.
///
/// Source: elf(5).
pub(super) fn look(file: &File) -> io::Result<Option<Elf>> {
    let mut header = [0; HEADER];
    if !is_read(file, &mut header, 0)? || !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(None);
    }
    let arch = match u16_at(&header, 18) {
        0x3e => "amd64",
        0xb7 => "arm64",
        0xf3 => "riscv64",
        _ => return Ok(None),
    };
    let (at, size) = (u64_at(&header, 32), u64::from(u16_at(&header, 54)));
    let n = u64::from(u16_at(&header, 56)).min(MAX_PROGRAM_HEADERS);
    let mut interpreter = None;
    for i in 0..n {
        let mut part = [0; PROGRAM_HEADER];
        if !is_read(file, &mut part, at.saturating_add(i * size))? {
            break;
        }
        let kind = u32::from_le_bytes([part[0], part[1], part[2], part[3]]);
        if kind == INTERPRETER {
            interpreter = name(file, u64_at(&part, 8), u64_at(&part, 32))?;
        }
    }
    Ok(Some(Elf { arch, interpreter }))
}

fn name(file: &File, at: u64, n: u64) -> io::Result<Option<String>> {
    let mut bytes = vec![0; usize::try_from(n.min(MAX_INTERPRETER)).unwrap_or(0)];
    if !is_read(file, &mut bytes, at)? {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(text.trim_end_matches('\0').to_owned()))
}

/// A file that ends before is no failure.
fn is_read(file: &File, bytes: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
