//! Calls that an instance is refused by the kernel: a program of the kernel's packet filter, which
//! seccomp runs before each call (seccomp(2), `linux/filter.h`).
//!
//! A deny list: what serves a program stays, what serves an attack on the kernel or on neighbours goes,
//! and so does what would undo the confinement around it. Pure; [`super::steps`] installs it.

use super::syscalls as nr;

/// One instruction, `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) if_true: u8,
    pub(super) if_false: u8,
    pub(super) value: u32,
}

/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K` and so on, `linux/bpf_common.h`.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// `SECCOMP_RET_ALLOW`, `SECCOMP_RET_ERRNO`.
const ALLOW: u32 = 0x7fff_0000;
const REFUSE: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Offsets in `struct seccomp_data`; arguments follow as eight bytes each, the low half first.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Numbers with this bit are of a second table of x86_64, for programs with short pointers.
#[cfg(target_arch = "x86_64")]
const SECOND_TABLE: Option<u32> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const SECOND_TABLE: Option<u32> = None;

/// Namespaces that a call may make, `<linux/sched.h>`: mounts, control groups, host name, IPC, users,
/// processes, network.
const NAMESPACES: u32 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;
/// And time, which `unshare` alone knows: to `clone` the same bit is part of a signal's number.
const TIME_NAMESPACE: u32 = 0x80;

/// `<bits/socket.h>`
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;
/// Types a terminal's input for somebody else, `<asm-generic/ioctls.h>`.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

/// Refused whatever it is asked for.
const ALWAYS: &[u32] = &[
    // Other processes.
    nr::PTRACE,
    nr::PROCESS_VM_READV,
    nr::PROCESS_VM_WRITEV,
    nr::KCMP,
    nr::PIDFD_GETFD,
    // Mounts, and trees of files behind them.
    nr::MOUNT,
    nr::UMOUNT2,
    nr::PIVOT_ROOT,
    nr::CHROOT,
    nr::OPEN_TREE,
    nr::MOVE_MOUNT,
    nr::FSOPEN,
    nr::FSCONFIG,
    nr::FSMOUNT,
    nr::FSPICK,
    nr::MOUNT_SETATTR,
    nr::NAME_TO_HANDLE_AT,
    nr::OPEN_BY_HANDLE_AT,
    nr::FANOTIFY_INIT,
    nr::QUOTACTL,
    nr::QUOTACTL_FD,
    nr::SETNS,
    // Wide ways into the kernel.
    nr::BPF,
    nr::PERF_EVENT_OPEN,
    nr::USERFAULTFD,
    nr::IO_URING_SETUP,
    nr::IO_URING_ENTER,
    nr::IO_URING_REGISTER,
    nr::ADD_KEY,
    nr::REQUEST_KEY,
    nr::KEYCTL,
    // The host's own affairs.
    nr::INIT_MODULE,
    nr::FINIT_MODULE,
    nr::DELETE_MODULE,
    nr::KEXEC_LOAD,
    nr::KEXEC_FILE_LOAD,
    nr::REBOOT,
    nr::SWAPON,
    nr::SWAPOFF,
    nr::ACCT,
    nr::SYSLOG,
    nr::VHANGUP,
    nr::SETHOSTNAME,
    nr::SETDOMAINNAME,
    nr::SETTIMEOFDAY,
    nr::CLOCK_SETTIME,
    nr::CLOCK_ADJTIME,
];

/// The filter of this architecture.
pub(super) fn program() -> Vec<Instruction> {
    let mut program = Vec::with_capacity(256);
    // A call by another architecture's table is none of those that are looked for here.
    program.extend([
        load(ARCHITECTURE),
        jump(JUMP_EQUAL, nr::ARCHITECTURE, 1, 0),
        refuse(EPERM),
        load(NUMBER),
    ]);
    if let Some(first) = SECOND_TABLE {
        program.extend([jump(JUMP_AT_LEAST, first, 0, 1), refuse(EPERM)]);
    }
    for number in ALWAYS.iter().chain(nr::OF_THIS_ARCHITECTURE) {
        program.extend(on_call(*number, vec![refuse(EPERM)]));
    }
    // Its flags are in memory, which no filter sees; libraries fall back to `clone`.
    program.extend(on_call(nr::CLONE3, vec![refuse(ENOSYS)]));
    program.extend(on_call(nr::CLONE, unless_any_bit(0, NAMESPACES)));
    let unshared = NAMESPACES | TIME_NAMESPACE;
    program.extend(on_call(nr::UNSHARE, unless_any_bit(0, unshared)));
    program.extend(on_call(nr::IOCTL, unless_one_of(1, &[TIOCSTI, TIOCLINUX])));
    program.extend(on_call(nr::SOCKET, known_families()));
    program.push(allow());
    program
}

/// Unix, IP, and what libraries ask for this host's addresses by.
fn known_families() -> Vec<Instruction> {
    vec![
        load_argument(0),
        jump(JUMP_EQUAL, AF_UNIX, 5, 0),
        jump(JUMP_EQUAL, AF_INET, 4, 0),
        jump(JUMP_EQUAL, AF_INET6, 3, 0),
        jump(JUMP_EQUAL, AF_NETLINK, 0, 3),
        load_argument(2),
        jump(JUMP_EQUAL, NETLINK_ROUTE, 0, 1),
        allow(),
        refuse(EPERM),
    ]
}

fn unless_any_bit(argument: u32, bits: u32) -> Vec<Instruction> {
    vec![
        load_argument(argument),
        jump(JUMP_ANY_BIT, bits, 0, 1),
        refuse(EPERM),
        allow(),
    ]
}

fn unless_one_of(argument: u32, values: &[u32]) -> Vec<Instruction> {
    let mut all = vec![load_argument(argument)];
    for value in values {
        all.extend([jump(JUMP_EQUAL, *value, 0, 1), refuse(EPERM)]);
    }
    all.push(allow());
    all
}

/// `then`, which must return, where the call is this one.
fn on_call(number: u32, then: Vec<Instruction>) -> Vec<Instruction> {
    // Blocks have ten instructions at most.
    let n_skipped = u8::try_from(then.len()).unwrap_or(u8::MAX);
    let mut all = vec![jump(JUMP_EQUAL, number, 0, n_skipped)];
    all.extend(then);
    all
}

fn load(offset: u32) -> Instruction {
    instruction(LOAD, offset)
}

/// The low half; the kernel too takes no more of those that are looked at here.
fn load_argument(n: u32) -> Instruction {
    load(ARGUMENTS + 8 * n)
}

fn allow() -> Instruction {
    instruction(RETURN, ALLOW)
}

fn refuse(error: u32) -> Instruction {
    instruction(RETURN, REFUSE | error)
}

fn instruction(code: u16, value: u32) -> Instruction {
    jump(code, value, 0, 0)
}

fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction {
        code,
        if_true,
        if_false,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer: `Ok` where it goes on with the call.
    fn ask(architecture: u32, number: u32, arguments: [u64; 3]) -> Result<(), u32> {
        let mut data = [0_u8; 64];
        data[..4].copy_from_slice(&number.to_le_bytes());
        data[4..8].copy_from_slice(&architecture.to_le_bytes());
        for (n, argument) in arguments.iter().enumerate() {
            let at = 16 + 8 * n;
            data[at..at + 8].copy_from_slice(&argument.to_le_bytes());
        }
        let program = program();
        let (mut at, mut loaded) = (0_usize, 0_u32);
        loop {
            let one = program[at];
            at += 1;
            let is_so = match one.code {
                LOAD => {
                    let from = one.value as usize;
                    loaded = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                    continue;
                }
                RETURN if one.value == ALLOW => return Ok(()),
                RETURN => return Err(one.value & 0xffff),
                JUMP_EQUAL => loaded == one.value,
                JUMP_AT_LEAST => loaded >= one.value,
                JUMP_ANY_BIT => loaded & one.value != 0,
                other => panic!("no code {other:#x}"),
            };
            at += usize::from(if is_so { one.if_true } else { one.if_false });
        }
    }

    fn here(number: u32, arguments: [u64; 3]) -> Result<(), u32> {
        ask(nr::ARCHITECTURE, number, arguments)
    }

    #[test]
    fn what_is_on_the_list_is_refused_and_what_is_not_goes_on() {
        for number in ALWAYS.iter().chain(nr::OF_THIS_ARCHITECTURE) {
            assert_eq!(here(*number, [0; 3]), Err(EPERM), "{number}");
        }
        let listed = |number: &u32| {
            ALWAYS.contains(number)
                || nr::OF_THIS_ARCHITECTURE.contains(number)
                || *number == nr::CLONE3
        };
        let others = (0..500).filter(|number| !listed(number));
        let ordinary = [u64::from(AF_INET), 1, 0];
        for number in others {
            assert_eq!(here(number, ordinary), Ok(()), "{number}");
        }
    }

    #[test]
    fn some_calls_are_judged_by_what_they_are_asked_for() {
        let thread = 0x003d_0f00;
        let signal = 17;
        let high = 1 << 32;
        let cases = [
            (nr::CLONE, [thread, 0, 0], Ok(())),
            (nr::CLONE, [signal, 0, 0], Ok(())),
            (nr::CLONE, [0x1000_0000 | signal, 0, 0], Err(EPERM)),
            (nr::CLONE, [0x0002_0000, 0, 0], Err(EPERM)),
            (nr::CLONE3, [0, 0, 0], Err(ENOSYS)),
            (nr::UNSHARE, [0x0000_0400, 0, 0], Ok(())),
            (nr::UNSHARE, [0x1000_0000, 0, 0], Err(EPERM)),
            (nr::UNSHARE, [0x1000_0400 | high, 0, 0], Err(EPERM)),
            (nr::UNSHARE, [0x80, 0, 0], Err(EPERM)),
            (nr::IOCTL, [0, 0x5401, 0], Ok(())),
            (nr::IOCTL, [0, 0x5412, 0], Err(EPERM)),
            // The kernel reads the low half of it.
            (nr::IOCTL, [0, 0x5412 | high, 0], Err(EPERM)),
            (nr::SOCKET, [1, 1, 0], Ok(())),
            (nr::SOCKET, [2, 1, 6], Ok(())),
            (nr::SOCKET, [10, 2, 17], Ok(())),
            // Addresses of this host, and what else that family has.
            (nr::SOCKET, [16, 3, 0], Ok(())),
            (nr::SOCKET, [16, 3, 12], Err(EPERM)),
            // Packets, the hypervisor, the kernel's ciphers.
            (nr::SOCKET, [17, 3, 0], Err(EPERM)),
            (nr::SOCKET, [40, 1, 0], Err(EPERM)),
            (nr::SOCKET, [38, 5, 0], Err(EPERM)),
            (nr::SOCKET, [0, 1, 0], Err(EPERM)),
        ];
        for (number, arguments, want) in cases {
            assert_eq!(here(number, arguments), want, "{number} {arguments:?}");
        }
    }

    #[test]
    fn calls_by_another_table_are_refused() {
        const I386: u32 = 0x4000_0003;
        assert_eq!(ask(I386, 0, [0; 3]), Err(EPERM));
        if let Some(first) = SECOND_TABLE {
            assert_eq!(here(first, [0; 3]), Err(EPERM));
            assert_eq!(here(first | nr::MOUNT, [0; 3]), Err(EPERM));
        }
    }

    #[test]
    fn the_kernel_takes_a_program_of_this_length() {
        const MAX: usize = 4_096;
        assert!(program().len() < MAX);
    }
}
