//! Numbers of calls, as the kernel's tables have them (`asm/unistd_64.h`, `asm-generic/unistd.h`).

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the numbers of this architecture's calls are not known here");

#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::*;

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::*;

// One number everywhere: the tables have grown together since.
pub(super) const OPEN_TREE: u32 = 428;
pub(super) const MOVE_MOUNT: u32 = 429;
pub(super) const FSOPEN: u32 = 430;
pub(super) const FSCONFIG: u32 = 431;
pub(super) const FSMOUNT: u32 = 432;
pub(super) const FSPICK: u32 = 433;
pub(super) const CLONE3: u32 = 435;
pub(super) const PIDFD_GETFD: u32 = 438;
pub(super) const MOUNT_SETATTR: u32 = 442;
pub(super) const QUOTACTL_FD: u32 = 443;
pub(super) const LANDLOCK_CREATE_RULESET: u32 = 444;
pub(super) const LANDLOCK_ADD_RULE: u32 = 445;
pub(super) const LANDLOCK_RESTRICT_SELF: u32 = 446;
pub(super) const IO_URING_SETUP: u32 = 425;
pub(super) const IO_URING_ENTER: u32 = 426;
pub(super) const IO_URING_REGISTER: u32 = 427;

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    /// `AUDIT_ARCH_X86_64`
    pub(in super::super) const ARCHITECTURE: u32 = 0xc000_003e;
    /// Ports of the machine: `iopl`, `ioperm`.
    pub(in super::super) const OF_THIS_ARCHITECTURE: &[u32] = &[172, 173];
    pub(in super::super) const IOCTL: u32 = 16;
    pub(in super::super) const SOCKET: u32 = 41;
    pub(in super::super) const CLONE: u32 = 56;
    pub(in super::super) const PTRACE: u32 = 101;
    pub(in super::super) const SYSLOG: u32 = 103;
    pub(in super::super) const CAPSET: u32 = 126;
    pub(in super::super) const VHANGUP: u32 = 153;
    pub(in super::super) const PIVOT_ROOT: u32 = 155;
    pub(in super::super) const CHROOT: u32 = 161;
    pub(in super::super) const ACCT: u32 = 163;
    pub(in super::super) const SETTIMEOFDAY: u32 = 164;
    pub(in super::super) const MOUNT: u32 = 165;
    pub(in super::super) const UMOUNT2: u32 = 166;
    pub(in super::super) const SWAPON: u32 = 167;
    pub(in super::super) const SWAPOFF: u32 = 168;
    pub(in super::super) const REBOOT: u32 = 169;
    pub(in super::super) const SETHOSTNAME: u32 = 170;
    pub(in super::super) const SETDOMAINNAME: u32 = 171;
    pub(in super::super) const INIT_MODULE: u32 = 175;
    pub(in super::super) const DELETE_MODULE: u32 = 176;
    pub(in super::super) const QUOTACTL: u32 = 179;
    pub(in super::super) const CLOCK_SETTIME: u32 = 227;
    pub(in super::super) const KEXEC_LOAD: u32 = 246;
    pub(in super::super) const ADD_KEY: u32 = 248;
    pub(in super::super) const REQUEST_KEY: u32 = 249;
    pub(in super::super) const KEYCTL: u32 = 250;
    pub(in super::super) const UNSHARE: u32 = 272;
    pub(in super::super) const PERF_EVENT_OPEN: u32 = 298;
    pub(in super::super) const FANOTIFY_INIT: u32 = 300;
    pub(in super::super) const NAME_TO_HANDLE_AT: u32 = 303;
    pub(in super::super) const OPEN_BY_HANDLE_AT: u32 = 304;
    pub(in super::super) const CLOCK_ADJTIME: u32 = 305;
    pub(in super::super) const SETNS: u32 = 308;
    pub(in super::super) const PROCESS_VM_READV: u32 = 310;
    pub(in super::super) const PROCESS_VM_WRITEV: u32 = 311;
    pub(in super::super) const KCMP: u32 = 312;
    pub(in super::super) const FINIT_MODULE: u32 = 313;
    pub(in super::super) const SECCOMP: u32 = 317;
    pub(in super::super) const KEXEC_FILE_LOAD: u32 = 320;
    pub(in super::super) const BPF: u32 = 321;
    pub(in super::super) const USERFAULTFD: u32 = 323;
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    /// `AUDIT_ARCH_AARCH64`
    pub(in super::super) const ARCHITECTURE: u32 = 0xc000_00b7;
    pub(in super::super) const OF_THIS_ARCHITECTURE: &[u32] = &[];
    pub(in super::super) const IOCTL: u32 = 29;
    pub(in super::super) const UMOUNT2: u32 = 39;
    pub(in super::super) const MOUNT: u32 = 40;
    pub(in super::super) const PIVOT_ROOT: u32 = 41;
    pub(in super::super) const CHROOT: u32 = 51;
    pub(in super::super) const VHANGUP: u32 = 58;
    pub(in super::super) const QUOTACTL: u32 = 60;
    pub(in super::super) const ACCT: u32 = 89;
    pub(in super::super) const CAPSET: u32 = 91;
    pub(in super::super) const UNSHARE: u32 = 97;
    pub(in super::super) const KEXEC_LOAD: u32 = 104;
    pub(in super::super) const INIT_MODULE: u32 = 105;
    pub(in super::super) const DELETE_MODULE: u32 = 106;
    pub(in super::super) const CLOCK_SETTIME: u32 = 112;
    pub(in super::super) const SYSLOG: u32 = 116;
    pub(in super::super) const PTRACE: u32 = 117;
    pub(in super::super) const REBOOT: u32 = 142;
    pub(in super::super) const SETHOSTNAME: u32 = 161;
    pub(in super::super) const SETDOMAINNAME: u32 = 162;
    pub(in super::super) const SETTIMEOFDAY: u32 = 170;
    pub(in super::super) const SOCKET: u32 = 198;
    pub(in super::super) const ADD_KEY: u32 = 217;
    pub(in super::super) const REQUEST_KEY: u32 = 218;
    pub(in super::super) const KEYCTL: u32 = 219;
    pub(in super::super) const CLONE: u32 = 220;
    pub(in super::super) const SWAPON: u32 = 224;
    pub(in super::super) const SWAPOFF: u32 = 225;
    pub(in super::super) const PERF_EVENT_OPEN: u32 = 241;
    pub(in super::super) const FANOTIFY_INIT: u32 = 262;
    pub(in super::super) const NAME_TO_HANDLE_AT: u32 = 264;
    pub(in super::super) const OPEN_BY_HANDLE_AT: u32 = 265;
    pub(in super::super) const CLOCK_ADJTIME: u32 = 266;
    pub(in super::super) const SETNS: u32 = 268;
    pub(in super::super) const PROCESS_VM_READV: u32 = 270;
    pub(in super::super) const PROCESS_VM_WRITEV: u32 = 271;
    pub(in super::super) const KCMP: u32 = 272;
    pub(in super::super) const FINIT_MODULE: u32 = 273;
    pub(in super::super) const SECCOMP: u32 = 277;
    pub(in super::super) const BPF: u32 = 280;
    pub(in super::super) const USERFAULTFD: u32 = 282;
    pub(in super::super) const KEXEC_FILE_LOAD: u32 = 294;
}
