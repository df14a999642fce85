"""What a program tries that wants out. Run as an instance by tests/hostile.rs, which knows what each
attempt may come to. Prints a line each: its name, and `passed` or `refused` with the reason."""

import ctypes
import errno
import json
import os
import platform
import socket
import stat
import sys

AT = json.loads(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
IS_ARM = platform.machine() == "aarch64"
SECONDS = 10
MIB = 1024 * 1024
# Stops nobody, and ends with whoever traces.
PTRACE_SEIZE = 0x4206
# An array of one number; software's clock.
BPF_MAP = bytes([2, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0])
PERF_CLOCK = bytes([1, 0, 0, 0, 112, 0, 0, 0])


class Refused(Exception):
    pass


def call(x86, arm, *arguments):
    """A call by its number; refused where the kernel says that it may not be made."""
    ctypes.set_errno(0)
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    answer = LIBC.syscall(ctypes.c_long(arm if IS_ARM else x86), *words)
    error = ctypes.get_errno()
    if answer == -1 and error in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ESRCH):
        raise Refused(errno.errorcode[error])
    return answer


def read(path):
    with open(path, "rb") as file:
        file.read(64)


def write(path):
    with open(path, "ab"):
        pass


def leave(path):
    """A file that is gone again where it could be made."""
    write(path)
    os.unlink(path)


def put(path, words):
    file = os.open(path, os.O_WRONLY)
    os.write(file, words)
    os.close(file)


def own(name):
    return os.path.join(os.environ.get("TMPDIR", "/tmp"), f"{os.environ['NIHILO_INSTANCE']}-{name}")


def through_link(path):
    link = own("link")
    os.symlink(path, link)
    try:
        read(link)
    finally:
        os.unlink(link)


def by_hard_link(path):
    link = own("hard")
    os.link(path, link)
    os.unlink(link)


def device():
    path = own("device")
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 1))
    os.unlink(path)


def fill(n_bytes):
    path = own("fill")
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
    finally:
        os.unlink(path)


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(SECONDS)
        one.connect(address)


def listen(port):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", port))


def status(key):
    with open("/proc/self/status") as file:
        return dict(line.split(":", 1) for line in file)[key].strip()


def must(is_so, why="it is not so"):
    if not is_so:
        raise Refused(why)


def same_namespace(kind):
    must(os.readlink(f"/proc/self/ns/{kind}") == AT["namespaces"][kind], "another one")


def memory_of(pid):
    word = ctypes.create_string_buffer(8)
    here = (ctypes.c_void_p * 2)(ctypes.addressof(word), 8)
    # Whether there is anything at that address is another question.
    there = (ctypes.c_void_p * 2)(0x1000, 8)
    call(310, 270, pid, here, 1, there, 1, 0)


def descriptor_of(pid):
    call(438, 438, os.pidfd_open(pid), 1, 0)


def by_handle():
    handle = (ctypes.c_uint * 34)(128)
    mount = ctypes.c_int()
    call(303, 264, -100, b"/usr", handle, ctypes.byref(mount), 0)
    root = os.open("/usr", os.O_RDONLY)
    os.close(call(304, 265, root, handle, os.O_RDONLY))


def open_files():
    opened = []
    try:
        while len(opened) <= 65_536:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for one in opened:
            os.close(one)


SIBLING, NODE = AT["sibling"], AT["node"]
ATTEMPTS = {
    # Files.
    "read-data": lambda: read(AT["data"] + "/secret"),
    "list-data": lambda: os.listdir(AT["data"]),
    "read-data-by-link": lambda: through_link(AT["data"] + "/secret"),
    "read-data-by-proc": lambda: read(f"/proc/{NODE}/root{AT['data']}/secret"),
    "link-data": lambda: by_hard_link(AT["data"] + "/secret"),
    "write-data": lambda: leave(AT["data"] + "/hostile"),
    "read-key": lambda: read(AT["key"]),
    "read-sibling-files": lambda: read(AT["sibling_file"]),
    "list-home-of-root": lambda: os.listdir("/root"),
    "read-shadow": lambda: read("/etc/shadow"),
    "write-usr": lambda: leave("/usr/nihilo-hostile"),
    "write-etc": lambda: leave("/etc/nihilo-hostile"),
    "write-shared-tmp": lambda: leave(AT["shared_tmp"] + "/hostile"),
    "leave-in-shared-memory": lambda: write("/dev/shm/" + AT["name"]),
    "fill-disk": lambda: fill(512 * MIB),
    "make-device": device,
    "write-sysctl": lambda: write("/proc/sys/kernel/core_pattern"),
    "leave-cgroup": lambda: write("/sys/fs/cgroup/pids/cgroup.procs"),
    "open-by-handle": by_handle,
    # Other processes.
    "signal-sibling": lambda: os.kill(SIBLING, 0),
    "signal-node": lambda: os.kill(NODE, 0),
    "trace-sibling": lambda: call(101, 117, PTRACE_SEIZE, SIBLING, 0, 0),
    "trace-node": lambda: call(101, 117, PTRACE_SEIZE, NODE, 0, 0),
    "read-environment-of-sibling": lambda: read(f"/proc/{SIBLING}/environ"),
    "read-environment-of-node": lambda: read(f"/proc/{NODE}/environ"),
    "read-memory-of-sibling": lambda: os.close(os.open(f"/proc/{SIBLING}/mem", os.O_RDONLY)),
    "copy-memory-of-sibling": lambda: memory_of(SIBLING),
    "see-command-of-sibling": lambda: read(f"/proc/{SIBLING}/cmdline"),
    "take-descriptor-of-node": lambda: descriptor_of(NODE),
    "share-ipc": lambda: same_namespace("ipc"),
    # Rights.
    "have-capabilities": lambda: must(int(status("CapEff"), 16)),
    "gain-by-setuid-program": lambda: must(status("NoNewPrivs") == "0"),
    "become-another-user": lambda: os.setuid(12_345),
    "spare-oneself": lambda: put("/proc/self/oom_score_adj", b"-1000"),
    "open-more-files": open_files,
    # The kernel.
    "mount": lambda: call(165, 40, b"none", own("mount").encode(), b"tmpfs", 0, None),
    "change-root": lambda: os.chroot("/usr"),
    "new-users": lambda: call(272, 97, 0x1000_0000),
    "new-mounts": lambda: call(272, 97, 0x0002_0000),
    "clone-new-users": lambda: call(56, 220, 0x1000_0000 | 17, 0, 0, 0, 0) or os._exit(0),
    "join-mounts-of-host": lambda: call(308, 268, os.open("/proc/1/ns/mnt", os.O_RDONLY), 0),
    "load-bpf": lambda: call(321, 280, 0, ctypes.create_string_buffer(BPF_MAP, 64), 64),
    "watch-performance": lambda: call(298, 241, ctypes.create_string_buffer(PERF_CLOCK, 112), 0, -1, -1, 0),
    "io-uring": lambda: call(425, 425, 4, ctypes.create_string_buffer(120)),
    "handle-page-faults": lambda: call(323, 282, 0),
    "kernel-keys": lambda: call(250, 219, 0, -3, 0),
    "load-module": lambda: call(175, 105, None, 0, b""),
    "restart-host": lambda: call(169, 142, 0, 0, 0, None),
    "set-clock": lambda: call(227, 112, 99, None),
    # The network.
    "packets": lambda: socket.socket(17, socket.SOCK_RAW).close(),
    "raw-ip": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
    "hypervisor-sockets": lambda: socket.socket(40, socket.SOCK_STREAM).close(),
    "kernel-ciphers": lambda: socket.socket(38, socket.SOCK_SEQPACKET).close(),
    "netlink-audit": lambda: socket.socket(16, socket.SOCK_RAW, 9).close(),
    "connect-to-node": lambda: connect(socket.AF_INET, ("127.0.0.1", AT["node_port"])),
    "connect-to-socket-file": lambda: connect(socket.AF_UNIX, AT["socket_file"]),
    "connect-to-abstract-socket": lambda: connect(socket.AF_UNIX, "\0" + AT["abstract"]),
    "listen-on-port-of-another": lambda: listen(AT["free_port"]),
    # What every program may.
    "own-files": lambda: leave(own("file")),
    "own-port": lambda: listen(int(os.environ["PORT"])),
    "any-free-port": lambda: listen(0),
    "own-processes": lambda: os.kill(os.getppid(), 0),
    "addresses-of-host": lambda: must(socket.if_nameindex()),
    "names": lambda: socket.getaddrinfo("localhost", 80),
    "shared-memory": lambda: leave("/dev/shm/own-" + AT["name"]),
    "outputs-by-name": lambda: os.close(os.open("/dev/stderr", os.O_WRONLY)),
    "threads": lambda: __import__("threading").Thread(target=int).start(),
    "programs-of-host": lambda: must(os.system("/bin/sh -c true") == 0),
}


def attempt(name, do):
    """In a process of its own: what one changes is not the next one's."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        __import__("signal").alarm(SECONDS)
        said = "passed"
        try:
            do()
        except (Refused, OSError) as why:
            said = f"refused {why}"
        os.write(into, said.encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    print(f"attempt {name} {said or 'refused by a signal'}", flush=True)


for name, do in ATTEMPTS.items():
    attempt(name, do)
