"""What a sandbox may ask of the kernel: every system call by name, with the reason: pure data, which seccomp.py compiles.

    ALLOWED         whatever the arguments
    ALLOWED_WITH    only with one of these arguments
    MAKING          what zygotes and PID 1 need to make a sandbox; refused, with the errno told, to the worker and all it starts
    REFUSED         to all of them; by name although the filter refuses what it does not know anyway, so that each has a reason
    REFUSED_WITH    allowed calls that are refused to the worker with these arguments

Nothing is killed for asking. A call whose number is above all of these is answered ENOSYS, as by an older kernel, so that libraries fall
back; what is between them and unknown is EPERM. Looked at: Docker's default profile, systemd's @system-service, Flatpak's list.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple


class Rule(NamedTuple):
    """`calls` are names as in <asm/unistd.h>, separated by space; those that an architecture lacks are left out there."""

    calls: str
    reason: str
    errno: int = 0


class Argument(NamedTuple):
    """the bits of `mask` in argument number `position` (from 0) equal `value`."""

    position: int
    mask: int
    value: int


class ArgumentRule(NamedTuple):
    """`call` with all of `arguments`. `shown` says it to people."""

    call: str
    arguments: tuple[Argument, ...]
    shown: str
    reason: str
    errno: int = 0


#: The kernel takes `int` arguments from the lower half of a register: whatever is in the upper half must not matter to the filter.
INT: Final = 0xFFFFFFFF

# <linux/sched.h>; CLONE_NEWTIME is for clone3 and unshare only, in clone's flags that bit is part of a signal's number
CLONE_NEW: Final = {
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}
# <linux/socket.h>, <linux/net.h>, <linux/in.h>, <linux/netlink.h>
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
SOCK_STREAM, SOCK_DGRAM, SOCK_TYPE_MASK = 1, 2, 0xF
IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP, NETLINK_ROUTE = 0, 6, 17, 0
SOL_SOCKET: Final = 1
SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF = 26, 50, 51, 52
# <linux/stat.h>
S_IFMT, S_IFIFO, S_IFREG, S_IFSOCK = 0o170000, 0o010000, 0o100000, 0o140000
# <asm-generic/ioctls.h>, <linux/prctl.h>, <linux/personality.h>
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
PR_SET_SECCOMP: Final = 22
PERSONALITY_QUERY: Final = 0xFFFFFFFF

ALLOWED: Final = (
    Rule(
        "read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 lseek sendfile splice tee copy_file_range readahead"
        " fadvise64 fallocate truncate ftruncate fsync fdatasync msync sync_file_range ioctl",
        "bytes in and out of files, pipes and sockets",
    ),
    Rule("close close_range dup dup2 dup3 fcntl flock pipe pipe2 memfd_create", "descriptors"),
    Rule(
        "open openat openat2 creat access faccessat faccessat2 stat fstat lstat newfstatat statx statfs fstatfs getdents getdents64 getcwd"
        " chdir fchdir mkdir mkdirat rmdir rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat readlink readlinkat"
        " umask utime utimes futimesat utimensat",
        "files and directories, of which a sandbox sees its own",
    ),
    Rule(
        "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr"
        " llistxattr flistxattr removexattr lremovexattr fremovexattr",
        "modes, owners and attributes; archive tools set them, the mounts are nosuid",
    ),
    Rule(
        "brk mmap munmap mprotect mremap madvise mincore mlock mlock2 munlock mlockall munlockall membarrier pkey_alloc pkey_free"
        " pkey_mprotect map_shadow_stack get_mempolicy",
        "the process's own memory; locking is bounded by RLIMIT_MEMLOCK and the cgroup",
    ),
    Rule(
        "clone fork vfork execve execveat exit exit_group wait4 waitid getpid getppid gettid getpgid getpgrp setpgid getsid setsid"
        " pidfd_open set_tid_address set_robust_list get_robust_list rseq arch_prctl prctl restart_syscall",
        "processes and threads, counted by the pids cgroup",
    ),
    Rule("futex futex_waitv futex_wake futex_wait futex_requeue", "locks of threads"),
    Rule(
        "kill tkill tgkill pidfd_send_signal rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigqueueinfo"
        " rt_tgsigqueueinfo rt_sigsuspend sigaltstack signalfd signalfd4 pause",
        "signals; the pid namespace bounds who can be reached",
    ),
    Rule(
        "time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep getitimer setitimer alarm times timer_create timer_settime"
        " timer_gettime timer_getoverrun timer_delete timerfd_create timerfd_settime timerfd_gettime",
        "reading clocks, sleeping, timers",
    ),
    Rule(
        "sched_yield sched_getaffinity sched_setaffinity sched_getscheduler sched_setscheduler sched_getparam sched_setparam"
        " sched_get_priority_max sched_get_priority_min sched_rr_get_interval sched_getattr sched_setattr getpriority setpriority"
        " ioprio_get ioprio_set getcpu",
        "scheduling of its own threads; nothing above the ordinary without CAP_SYS_NICE, and the CPU cgroup has the last word",
    ),
    Rule(
        "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid setresgid setfsuid"
        " setfsgid setgroups capget capset",
        "ids and capabilities: without CAP_SETUID the kernel allows only what changes nothing, and programs that drop them must start",
    ),
    Rule("getrlimit setrlimit prlimit64 getrusage sysinfo uname getrandom", "limits (downwards), usage, the kernel's name, random bytes"),
    Rule(
        "connect accept accept4 bind listen shutdown sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg getsockname getpeername getsockopt"
        " setsockopt",
        "sockets that could be made; the network namespace bounds whom they reach",
    ),
    Rule(
        "select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 inotify_init"
        " inotify_init1 inotify_add_watch inotify_rm_watch",
        "waiting for events",
    ),
    Rule(
        "shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_timedsend"
        " mq_timedreceive mq_notify mq_getsetattr",
        "System V and POSIX objects of its own ipc namespace",
    ),
    Rule("landlock_create_ruleset landlock_add_rule landlock_restrict_self", "a program that restricts itself further"),
)

_NEW_DEVICE = "a device node would be a door to the host's drivers; mknod otherwise is how fifos are made"
_PROTOCOLS = "TCP and UDP; raw, packet and other protocols forge traffic or reach rarely tested kernel modules"

ALLOWED_WITH: Final = (
    ArgumentRule("socket", (Argument(0, INT, AF_UNIX),), "AF_UNIX", "between processes of the sandbox"),
    *(
        ArgumentRule(
            "socket",
            (Argument(0, INT, family), Argument(1, SOCK_TYPE_MASK, kind), Argument(2, INT, protocol)),
            f"{name}, {word}",
            _PROTOCOLS,
        )
        for family, name in ((AF_INET, "AF_INET"), (AF_INET6, "AF_INET6"))
        for kind, protocol, word in (
            (SOCK_STREAM, IPPROTO_IP, "SOCK_STREAM, 0"),
            (SOCK_STREAM, IPPROTO_TCP, "SOCK_STREAM, IPPROTO_TCP"),
            (SOCK_DGRAM, IPPROTO_IP, "SOCK_DGRAM, 0"),
            (SOCK_DGRAM, IPPROTO_UDP, "SOCK_DGRAM, IPPROTO_UDP"),
        )
    ),
    ArgumentRule(
        "socket",
        (Argument(0, INT, AF_NETLINK), Argument(2, INT, NETLINK_ROUTE)),
        "AF_NETLINK, NETLINK_ROUTE",
        "getaddrinfo and if_nameindex ask for addresses there; changing anything needs CAP_NET_ADMIN",
    ),
    ArgumentRule("socketpair", (Argument(0, INT, AF_UNIX),), "AF_UNIX", "another family's module would be loaded before it refuses"),
    *(
        ArgumentRule(call, (Argument(index, S_IFMT, kind),), word, _NEW_DEVICE)
        for call, index in (("mknod", 1), ("mknodat", 2))
        for kind, word in ((S_IFIFO, "S_IFIFO"), (S_IFREG, "S_IFREG"), (0, "no type, which is S_IFREG"), (S_IFSOCK, "S_IFSOCK"))
    ),
    ArgumentRule("personality", (Argument(0, INT, 0),), "PER_LINUX", "what every process is already"),
    ArgumentRule("personality", (Argument(0, INT, PERSONALITY_QUERY),), "0xffffffff", "only asks"),
)

MAKING: Final = (
    Rule("unshare setns", "new or other namespaces", errno.EPERM),
    Rule("clone3", "its flags are behind a pointer, where no filter can look; the C library falls back to clone", errno.ENOSYS),
    Rule("mount umount2 pivot_root move_mount open_tree mount_setattr", "changing what is mounted where", errno.EPERM),
    Rule("sethostname", "the name is the sandbox's", errno.EPERM),
)

REFUSED: Final = (
    Rule("chroot fsopen fsconfig fsmount fspick swapon swapoff setdomainname", "what not even making a sandbox takes", errno.EPERM),
    Rule("name_to_handle_at open_by_handle_at", "opening files by handle goes around every mount (the `shocker` escape)", errno.EPERM),
    Rule("init_module finit_module delete_module kexec_load kexec_file_load reboot", "code for the kernel, or another kernel", errno.EPERM),
    Rule("bpf perf_event_open", "programs and probes inside the kernel: a rich source of holes", errno.EPERM),
    Rule(
        "seccomp",
        "a filter is a BPF program: compiled ones share bpf_jit_limit with the whole host, and when it is used up no sandbox can be made",
        errno.ENOSYS,
    ),
    Rule("userfaultfd", "stops the kernel at a page fault of the attacker's choice, which makes races easy to win", errno.EPERM),
    Rule("io_uring_setup io_uring_enter io_uring_register", "does calls that no filter sees; libraries fall back", errno.ENOSYS),
    Rule("io_setup io_destroy io_getevents io_pgetevents io_submit io_cancel", "its requests are counted for the whole host", errno.ENOSYS),
    Rule("add_key request_key keyctl", "keyrings are not separated by namespaces", errno.EPERM),
    Rule(
        "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd",
        "reaching into other processes, and the kernel's addresses",
        errno.EPERM,
    ),
    Rule("settimeofday clock_settime adjtimex clock_adjtime", "the clock is the host's", errno.EPERM),
    Rule("syslog", "the kernel's log tells of the host", errno.EPERM),
    Rule("quotactl quotactl_fd acct", "accounting of the host", errno.EPERM),
    Rule("sync syncfs", "makes every neighbour's disk wait; nothing of a sandbox is on a disk", errno.EPERM),
    Rule("iopl ioperm modify_ldt vhangup lookup_dcookie", "hardware, segments, terminals, profiling", errno.EPERM),
    Rule("fanotify_init fanotify_mark", "watching whole file systems", errno.EPERM),
    Rule(
        "mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages",
        "placing memory on the host's nodes, against the cgroup's choice",
        errno.EPERM,
    ),
    Rule("vmsplice", "puts pages that can still change into the kernel's pipes; nothing ordinary uses it", errno.EPERM),
    Rule("memfd_secret", "memory that the kernel can't move or reclaim", errno.ENOSYS),
    Rule("cachestat", "tells which pages of shared files neighbours have read", errno.ENOSYS),
    Rule("remap_file_pages", "replaced by mmap twenty years ago", errno.ENOSYS),
    Rule(
        "_sysctl create_module get_kernel_syms query_module nfsservctl uselib ustat sysfs vserver security afs_syscall tuxcall getpmsg"
        " putpmsg epoll_ctl_old epoll_wait_old set_thread_area get_thread_area",
        "gone from the kernel, never in it, or for other architectures",
        errno.ENOSYS,
    ),
)

_TERMINAL = "puts keys into the terminal of whoever started the process"
_BPF = "BPF programs, as with seccomp; they matter only to raw and packet sockets, or choose between sockets of one port"

REFUSED_WITH: Final = (
    *(
        ArgumentRule("clone", (Argument(0, flag, flag),), name, "in a new namespace a process gets capabilities", errno.EPERM)
        for name, flag in CLONE_NEW.items()
    ),
    ArgumentRule("ioctl", (Argument(1, INT, TIOCSTI),), "TIOCSTI", _TERMINAL, errno.EPERM),
    ArgumentRule("ioctl", (Argument(1, INT, TIOCLINUX),), "TIOCLINUX", _TERMINAL, errno.EPERM),
    ArgumentRule("prctl", (Argument(0, INT, PR_SET_SECCOMP),), "PR_SET_SECCOMP", "as seccomp", errno.EINVAL),
    *(
        ArgumentRule("setsockopt", (Argument(1, INT, SOL_SOCKET), Argument(2, INT, option)), f"SOL_SOCKET, {name}", _BPF, errno.EPERM)
        for option, name in (
            (SO_ATTACH_FILTER, "SO_ATTACH_FILTER"),
            (SO_ATTACH_BPF, "SO_ATTACH_BPF"),
            (SO_ATTACH_REUSEPORT_CBPF, "SO_ATTACH_REUSEPORT_CBPF"),
            (SO_ATTACH_REUSEPORT_EBPF, "SO_ATTACH_REUSEPORT_EBPF"),
        )
    ),
)

#: PID 1 once it has dropped everything: it waits, reaps, says a line and exits. It opens nothing and starts nothing.
INIT: Final = Rule(
    "read write recvmsg recvfrom sendto sendmsg close poll ppoll select pselect6 wait4 waitid kill rt_sigaction rt_sigprocmask rt_sigreturn"
    " restart_syscall pipe pipe2 fcntl fstat newfstatat lseek brk mmap munmap mremap mprotect madvise futex clock_gettime gettimeofday"
    " getpid gettid tgkill getrandom exit exit_group",
    "what waiting for sandboxd and the worker takes, in every Python",
)


def names(*rules: Rule) -> list[str]:
    return [name for rule in rules for name in rule.calls.split()]
