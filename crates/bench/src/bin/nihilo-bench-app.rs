//! The app behind every benchmark: a fixed answer over HTTP/1.1 keep-alive, one thread per
//! connection, nothing but the standard library, so that it starts as fast as a program can.
//!
//! `PORT` and `HOST` say where it listens, `BODY_BYTES` how long its answer is (default 6).

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

/// Longest request head that is read; benchmarks send a few hundred bytes.
const MAX_HEAD: usize = 16 * 1024;
const HEAD_END: &[u8] = b"\r\n\r\n";

fn main() -> io::Result<()> {
    let host = std::env::var("HOST").unwrap_or_else(|_| "127.0.0.1".into());
    let listener = TcpListener::bind((host.as_str(), number("PORT", 8080)))?;
    let answer = answer(number("BODY_BYTES", 6).into());
    for connection in listener.incoming() {
        let (connection, answer) = (connection?, answer.clone());
        // A client that leaves ends its thread, and nothing else.
        std::thread::spawn(move || drop(serve(connection, &answer)));
    }
    Ok(())
}

fn number(variable: &str, default: u16) -> u16 {
    let value = std::env::var(variable).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn answer(body_bytes: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {body_bytes}\r\n\r\n"
    );
    let mut answer = head.into_bytes();
    answer.extend(b"hello\n".iter().cycle().take(body_bytes));
    answer
}

fn serve(mut connection: TcpStream, answer: &[u8]) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut head = [0; MAX_HEAD];
    let mut n_read = 0;
    loop {
        match connection.read(&mut head[n_read..])? {
            // Closed, or a head that never ends.
            0 => return Ok(()),
            n => n_read += n,
        }
        while let Some(end) = end_of_head(&head[..n_read]) {
            connection.write_all(answer)?;
            head.copy_within(end..n_read, 0);
            n_read -= end;
        }
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let start = bytes
        .windows(HEAD_END.len())
        .position(|window| window == HEAD_END)?;
    Some(start + HEAD_END.len())
}
