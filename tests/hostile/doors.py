"""Attacks on the ways out: each is tried in a function, where it must be told what the list says, and outside, where it works.

Opening for writing is as far as they go with what belongs to the whole machine. Sources: man pages as page(section), kernel documents as
Documentation/…, CVEs, and the tests and threads of others (moby, runc, bubblewrap, snekbox's tests/test_nsjail.py).
"""

from __future__ import annotations

from tests.hostile.attacks import THROUGH, Attack
from tests.hostile.chamber import OUTSIDE

A = Attack
READ_ONLY = ("EROFS", "EACCES")
#: Not every kernel has it; one that lacks it has nothing to protect.
MAY_LACK = (THROUGH, "ENOENT")
#: Root outside of a sandbox, in the host's own tree.
HOST = (*OUTSIDE, "image as root")

MOUNTS = [
    A("mounts a tmpfs over /tmp", "mount(2)", 'mount(b"none", b"/tmp", b"tmpfs", 0)'),
    A("makes / writable again", "mount(2) MS_REMOUNT; bubblewrap --ro-bind", 'mount(None, b"/", None, 32 | 4096)'),
    A("binds / into /tmp", "mount(2) MS_BIND", 'mount(b"/", b"/tmp", None, 4096)'),
    A("mounts a second /proc without masks", "CVE-2025-31133 (runc maskedPaths)", 'mount(b"proc", b"/tmp", b"proc", 0)'),
    A("unmounts /proc and its masks", "umount2(2) MNT_DETACH", 'call("umount2", b"/proc", 2)'),
    A("pivots its root", "pivot_root(2)", 'call("pivot_root", b".", b".")', outside=("through", "EINVAL", "EBUSY")),
    A("clones the mount tree", "open_tree(2) OPEN_TREE_CLONE", 'os.close(call("open_tree", -100, b"/", 1))'),
    A("moves a mount", "move_mount(2)", 'call("move_mount", -1, b"", -1, b"", 4)', outside=("EBADF", "EINVAL", "ENOENT")),
    A("opens a file system by the new interface", "fsopen(2); CVE-2022-0185", 'os.close(call("fsopen", b"tmpfs", 0))'),
    A("changes the attributes of a mount", "mount_setattr(2)", 'call("mount_setattr", -100, b"/", 0, (ctypes.c_uint64 * 4)(2), 32)'),
    A("chroots into /tmp", "chroot(2), the double chroot", 'os.chroot("/tmp")'),
    A(
        "opens a file by handle",
        "open_by_handle_at(2); shocker.c (2014)",
        """
handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + b"x" * 128)
call("name_to_handle_at", -100, b"/", handle, ctypes.byref(ctypes.c_int()), 0)
call("open_by_handle_at", os.open("/", os.O_RDONLY), handle, 0)
""",
    ),
    A("mounts cgroup v1 for its release_agent", "CVE-2022-0492", 'mount(b"cgroup", b"/tmp", b"cgroup", 0, b"memory")'),
    A("mounts cgroup v2", "cgroups(7), Documentation/admin-guide/cgroup-v2", 'mount(b"none", b"/tmp", b"cgroup2", 0)'),
    A(
        "finds a release_agent",
        "CVE-2022-0492; cgroups(7)",
        'open_to_write("/sys/fs/cgroup/memory/release_agent")',
        ("ENOENT",),
        without=HOST,
    ),
    A("leaves its cgroup", "cgroups(7) cgroup.procs", 'open_to_write("/sys/fs/cgroup/memory/tasks")', ("ENOENT",), without=HOST),
    A("mounts memory without a limit", "Documentation/filesystems/ramfs-rootfs-initramfs", 'mount(b"x", b"/tmp", b"ramfs", 0)'),
]

NAMESPACES = [
    A("makes a user namespace", "user_namespaces(7); CVE-2022-0185", 'told = in_a_child(lambda: call("unshare", 0x10000000) and None)'),
    A("makes a mount namespace", "unshare(2); bubblewrap --disable-userns", 'told = in_a_child(lambda: call("unshare", 0x20000) and None)'),
    A(
        "clones into a user namespace",
        "clone(2) CLONE_NEWUSER; CVE-2013-1858",
        'pid = call("clone", 0x10000000 | 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)',
    ),
    A(
        "hides the flags of clone3 from the filter",
        "clone(2) clone3; moby#42681",
        """
pid = call("clone3", (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17, 0, 0, 0), 64)
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
""",
        ("ENOSYS",),
    ),
    A("enters a namespace", "setns(2)", 'call("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0)'),
    A("takes PID 1's namespaces", "setns(2); nsenter(1)", 'os.open("/proc/1/ns/mnt", os.O_RDONLY)', ("EACCES",)),
    A("becomes root", "setuid(2)", "os.setuid(0)", ("EINVAL",)),
    A("becomes the group root", "setgid(2)", "os.setgid(0)", ("EINVAL",)),
    A("becomes its neighbour's user", "user_namespaces(7)", "os.setuid(1900000000)", ("EINVAL",)),
    A("joins the group root", "setgroups(2); CVE-2014-8989", "os.setgroups([0])"),
    A("gives its file to root", "chown(2)", 'open("/tmp/own", "w").close()\nos.chown("/tmp/own", 0, 0)', ("EINVAL",)),
    A(
        "gives a file capabilities",
        "capabilities(7) security.capability",
        'open("/tmp/own", "w").close()\n'
        'call("setxattr", b"/tmp/own", b"security.capability", struct.pack("<5I", 0x02000001, 0xFF, 0, 0, 0), 20, 0)',
    ),
    A(
        "gives itself all capabilities",
        "capset(2)",
        'call("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *([255] * 3 + [0] * 3)))',
    ),
    A("changes its securebits", "capabilities(7) PR_SET_SECUREBITS", 'call("prctl", 28, 0x40, 0, 0, 0)'),
    A("renames the host", "sethostname(2); uts_namespaces(7)", 'call("sethostname", b"mine", 4)'),
]

PROC = [
    A("opens core_pattern", "core(5)", 'open_to_write("/proc/sys/kernel/core_pattern")', READ_ONLY),
    A(
        "opens the path of modprobe",
        "Documentation/admin-guide/sysctl/kernel",
        'open_to_write("/proc/sys/kernel/modprobe")',
        (*READ_ONLY, "ENOENT"),
        MAY_LACK,
    ),
    A("opens a sysctl of memory", "Documentation/admin-guide/sysctl/vm", 'open_to_write("/proc/sys/vm/overcommit_memory")', READ_ONLY),
    A("opens its host name", "uts_namespaces(7)", 'open_to_write("/proc/sys/kernel/hostname")', READ_ONLY),
    A(
        "opens sysrq-trigger",
        "proc(5); CVE-2025-31133",
        'fd = os.open("/proc/sysrq-trigger", os.O_WRONLY)\ntold = "masked" if stat.S_ISCHR(os.fstat(fd).st_mode) else "through"',
        ("masked", "ENOENT"),
        MAY_LACK,
    ),
    *(
        A(
            f"reads /proc/{name}",
            "runc maskedPaths; proc(5)",
            f'told = "through" if read("/proc/{name}") else "empty"',
            ("empty", "ENOENT"),
            MAY_LACK,
        )
        for name in ("kallsyms", "keys", "key-users", "timer_list", "kcore")
    ),
    *(
        A(f"lists /proc/{name}", "runc maskedPaths; proc(5)", f'told = listed("/proc/{name}")', ("empty",))
        for name in ("bus", "fs", "irq", "tty")
    ),
    A("reads PID 1's environment", "proc(5) environ", 'read("/proc/1/environ")', ("EACCES",)),
    A("writes PID 1's memory", "proc(5) mem; CVE-2012-0056", 'os.open("/proc/1/mem", os.O_RDWR)', ("EACCES",)),
    A("lists PID 1's descriptors", "proc(5); CVE-2016-9962 (runc exec)", 'os.listdir("/proc/1/fd")', ("EACCES",)),
    A("goes through PID 1's root", "proc(5) root", 'os.listdir("/proc/1/root/")', ("EACCES",)),
    A("goes through PID 1's directory", "proc(5) cwd; CVE-2024-21626", 'os.listdir("/proc/1/cwd/")', ("EACCES",)),
    A("opens PID 1's program", "proc(5) exe; CVE-2019-5736", 'os.open("/proc/1/exe", os.O_RDONLY)', ("EACCES",)),
    A(
        "reads where PID 1's libraries are",
        "proc(5) maps; CVE-2013-2929",
        'told = "through" if read("/proc/1/maps") else "empty"',
        ("EACCES",),
    ),
    A(
        "is spared by the OOM killer",
        "proc(5) oom_score_adj",
        'put("/proc/self/oom_score_adj", b"-1000")',
        ("EACCES", "EPERM"),
        outside=(THROUGH, "EACCES"),
    ),
    A("overwrites its interpreter", "CVE-2019-5736", 'open_to_write("/proc/self/exe")', READ_ONLY, ("ETXTBSY",)),
    A(
        "leaves by a directory that was left open",
        "CVE-2024-21626 (Leaky Vessels)",
        'told = "through" if [fd for fd in range(3, 1024) if os.path.isdir("/proc/self/fd/%d" % fd)] else "none"',
        ("none",),
        without=("closed descriptors",),
    ),
    A("sees a process of the host", "pid_namespaces(7)", 'os.kill(event["pid"], 0)', ("ESRCH",), without=(*OUTSIDE, "pid namespace")),
    A(
        "sees other processes",
        "pid_namespaces(7); proc(5) hidepid",
        'told = "through" if os.path.exists("/proc/%d" % event["pid"]) else "none"',
        ("none",),
        without=("pid namespace", "user namespace"),
    ),
    A("reads a file of the host", "chroot(2); pivot_root(2)", 'read(event["file"])', ("ENOENT",), without=("image as root",)),
    A("writes to /etc/passwd", "snekbox test_read_only_file_system", 'open_to_write("/etc/passwd")', READ_ONLY),
    A("writes to its code", "DESIGN section 4", 'open("/var/user/x", "w").close()', READ_ONLY),
    A("writes to the guest program", "CVE-2019-5736, its kind", 'open("/var/runtime/hearth/worker.py", "a").close()', READ_ONLY),
    A(
        "goes to PID 1 by a link in /tmp",
        "symlink(7) races",
        'os.symlink("/proc/1/root/etc", "/tmp/door")\nos.listdir("/tmp/door/")',
        ("EACCES",),
    ),
    A("changes a file's time in the image", "utimensat(2)", 'os.utime("/etc/passwd", None)', READ_ONLY),
]

DEVICES = [
    A("makes the node of a disk", "mknod(2)", 'os.mknod("/tmp/sda", stat.S_IFBLK | 0o600, os.makedev(8, 0))'),
    A("makes the node of the memory", "mknod(2), mem(4)", 'os.mknod("/tmp/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))'),
    A("opens the kernel's log device", "kmsg(4)", 'os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)', ("ENOENT",), without=HOST),
    A("opens a pseudoterminal", "pts(4)", 'os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)', ("ENOENT",), without=HOST),
    A("types into a terminal", "CVE-2017-5226 (bubblewrap): ioctl(2) TIOCSTI", 'call("ioctl", 0, 0x5412, b"x")', outside=("ENOTTY",)),
    A("pastes into a console", "CVE-2023-1523 (snap): TIOCLINUX", 'call("ioctl", 0, 0x541C, b"x")', outside=("ENOTTY",)),
]

KERNEL = [
    A("loads a BPF program", "bpf(2); CVE-2020-8835, CVE-2021-3490", 'call("bpf", 5, 0, 0)', outside=("EINVAL", "EFAULT", "E2BIG")),
    A("opens a performance counter", "perf_event_open(2); CVE-2013-2094", 'call("perf_event_open", 0, 0, -1, -1, 0)', outside=("EFAULT",)),
    A("handles page faults itself", "userfaultfd(2)", 'os.close(call("userfaultfd", 0))'),
    A(
        "sets up an io_uring",
        "io_uring_setup(2); CVE-2022-29582, CVE-2023-2598",
        'call("io_uring_setup", 8, 0)',
        ("ENOSYS",),
        ("EFAULT", "EPERM"),
    ),
    A("adds a key", "keyrings(7); CVE-2016-0728", 'call("add_key", b"user", b"hostile", b"x", 1, -2)'),
    A("reads the session keyring", "keyctl(2); keyrings(7)", 'call("keyctl", 0, -3, 1)', outside=("through", "ENOKEY")),
    A("requests a key", "request_key(2)", 'call("request_key", b"user", b"hostile", None, 0)', outside=("ENOKEY", "ENOENT")),
    A("is traced", "ptrace(2) PTRACE_TRACEME", 'told = in_a_child(lambda: call("ptrace", 0, 0, 0, 0) and None)'),
    A("traces PID 1", "ptrace(2) PTRACE_SEIZE; CVE-2019-13272", 'call("ptrace", 0x4206, 1, 0, 0)'),
    A("reads PID 1's memory", "process_vm_readv(2)", 'call("process_vm_readv", 1, 0, 0, 0, 0, 0)'),
    A(
        "takes a descriptor of PID 1",
        "pidfd_getfd(2)",
        'call("pidfd_getfd", call("pidfd_open", 1, 0), 0, 0)',
        outside=("through", "EBADF"),
    ),
    A("loads a module", "init_module(2)", 'call("finit_module", -1, b"", 0)', outside=("EBADF", "ENOSYS", "ENOEXEC")),
    A("loads another kernel", "kexec_load(2)", 'call("kexec_load", 0, 99999, 0, 0)', outside=("EINVAL", "ENOSYS")),
    A("reads the kernel's log", "syslog(2); dmesg_restrict", 'call("syslog", 3, ctypes.create_string_buffer(64), 64)'),
    A("sets the clock", "clock_settime(2)", 'call("clock_settime", 0, 0)', outside=("EFAULT",)),
    A("reboots", "reboot(2)", 'call("reboot", 1, 2, 3, 0)', outside=("EINVAL",)),
    A("turns off address randomisation", "personality(2)", 'call("personality", 0x0040000)'),
    A("gifts pages to a pipe", "vmsplice(2); CVE-2008-0600", 'call("vmsplice", os.pipe()[1], 0, 0, 0)'),
    A("keeps memory from the kernel", "memfd_secret(2)", 'call("memfd_secret", 0)', ("ENOSYS",), ("through", "ENOSYS")),
    A("watches whole file systems", "fanotify(7)", 'os.close(call("fanotify_init", 0, 0))'),
    A("makes everybody's disk wait", "sync(2)", 'call("syncfs", os.open("/", os.O_RDONLY))'),
    A("goes before others", "setpriority(2); nice(2)", "os.nice(-5)"),
    A("becomes a real-time process", "sched(7)", 'call("sched_setscheduler", 0, 1, struct.pack("i", 1))', outside=("through", "EPERM")),
    A("raises its descriptor limit", "getrlimit(2)", "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))", ("ValueError",)),
    A(
        "locks memory",
        "mlock(2) RLIMIT_MEMLOCK",
        "area = mmap.mmap(-1, 64 * MEGABYTE)\n"
        'call("mlock", ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area))), 64 * MEGABYTE)',
        ("ENOMEM", "EAGAIN"),
    ),
]

SOCKETS = [
    A("opens a raw socket", "raw(7)", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
    A("opens a packet socket", "packet(7); CVE-2017-7308, CVE-2020-14386", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
    A("talks to nf_tables", "CVE-2022-32250, CVE-2024-1086", "socket.socket(16, socket.SOCK_RAW, 12)"),
    A("listens to udev", "netlink(7) NETLINK_KOBJECT_UEVENT; CVE-2009-1185", "socket.socket(16, socket.SOCK_RAW, 15)"),
    A(
        "uses the kernel's ciphers",
        "AF_ALG; CVE-2017-7618",
        "socket.socket(38, socket.SOCK_SEQPACKET)",
        outside=("through", "EAFNOSUPPORT"),
    ),
    A(
        "talks to the hypervisor",
        "vsock(7); CVE-2024-50264",
        "socket.socket(40, socket.SOCK_STREAM)",
        outside=("through", "EAFNOSUPPORT", "ENODEV"),
    ),
    A(
        "filters a socket",
        "socket(7) SO_ATTACH_FILTER",
        "socket.socket().setsockopt(1, 26, struct.pack('HxxxxxxQ', 0, 0))",
        outside=("EINVAL",),
    ),
    A("marks its packets", "socket(7) SO_MARK", "socket.socket().setsockopt(1, 36, 1)"),
    A(
        "takes an interface down by netlink",
        "rtnetlink(7) RTM_SETLINK",
        """
link = socket.socket(16, socket.SOCK_RAW, 0)
link.send(struct.pack("=IHHIIBxHiII", 32, 19, 5, 1, 0, 0, 0, 1, 0, 1))  # NLM_F_REQUEST | NLM_F_ACK; lo without IFF_UP
refused = -struct.unpack_from("=i", link.recv(4096), 16)[0]
if refused:
    raise OSError(refused, "")
""",
    ),
    A(
        "takes an interface down by ioctl",
        "netdevice(7) SIOCSIFFLAGS",
        'link = socket.socket()\nfcntl.ioctl(link.fileno(), 0x8914, struct.pack("16sh14x", b"lo", 0))',
    ),
    A(
        "connects to an abstract socket of the host",
        "CVE-2020-15257 (containerd-shim); unix(7)",
        'socket.socket(socket.AF_UNIX).connect("\\0" + event["abstract"])',
        ("ECONNREFUSED",),
        without=("net namespace",),
    ),
    A(
        "attaches shared memory of the host",
        "ipc_namespaces(7)",
        'call("shmget", event["shm_key"], 0, 0)',
        ("ENOENT",),
        without=("ipc namespace",),
    ),
    A(
        "learns the host's name",
        "uts_namespaces(7)",
        'told = "through" if socket.gethostname() == event["hostname"] else "another"',
        ("another",),
        without=("uts namespace",),
    ),
]

DOORS = [*MOUNTS, *NAMESPACES, *PROC, *DEVICES, *KERNEL, *SOCKETS]
