"""The zygote: an interpreter inside an image that preloads modules once and forks sandboxes. Guest program, Python 2.7.5 and 3.6+.

    python zygote.py          descriptor 3: channel to sandboxd (SOCK_SEQPACKET), 4: the pid namespace we fork back into

    sandboxd: {"op": "start", "preloads": [...], "rehearsal": dir, "filters": {...}}   zygote: {"op": "ready", "python": "2.7.5", "skipped": {...}}
    sandboxd: {"op": "fork", "fds": [...], "enter": plan, "mounts": plan, "worker": plan, "map": plan, "rehearsal": dir[, "attach": plan, "drop": plan]}  (the new PID 1 answers on its own control socket)

PID 1 of a sandbox, forked here, speaks on its control socket:
    to sandboxd    {"op": "ready"}  {"op": "specialised"}  {"op": "error", ...}  {"op": "exited", "status": n}
    from sandboxd  {"op": "specialise", "fds": [...], "attach": plan, "drop": plan}; end of file: kill all, exit

It holds five capabilities and runs no user code. Everything privileged is a plan made on the host (sandbox/plan.py); this is its guest-side
executor. Single-threaded on purpose: fork with threads is unsafe, so sandboxd counts our threads once we are ready.
"""

import array
import base64
import ctypes
import errno
import fcntl
import gc
import json
import os
import platform
import resource
import select
import signal
import socket
import struct
import sys
import traceback

import worker

# user code may have a module of this name, and must not find the guest programs
sys.modules["hearth_worker"] = sys.modules.pop("worker")
sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(os.path.abspath(__file__))]

CLONE_NEWPID = 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
SYS_CAPSET = {"x86_64": 126, "aarch64": 91}[platform.machine()]
SYS_MOVE_MOUNT = 429
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 22, 24, 38, 47
SECCOMP_MODE_FILTER = 2
MAX_MESSAGE = 128 * 1024
MAX_FDS = 32
EXIT_STEP_FAILED, EXIT_NO_SANDBOXD = 73, 72
CHANNEL, PID_NAMESPACE = 3, 4

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.recvmsg.restype = ctypes.c_ssize_t
libc.send.restype = ctypes.c_ssize_t
libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


class IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class MsgHdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(IoVec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


class CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def check(result, path=""):
    """The one error function: OSError with errno and path where a call returned a negative number."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def encoded(text):
    if text is None or isinstance(text, bytes):
        return text
    return text.encode("utf-8")


# -- messages ---------------------------------------------------------------------------------------------------------

_data = ctypes.create_string_buffer(MAX_MESSAGE)
_control = ctypes.create_string_buffer(1024)


def receive(fd):
    """One packet with its descriptors, close-on-exec: (message or None at end of file, [fd, ...]). recvmsg(2); Python 2.7 has none."""
    iov = IoVec(ctypes.addressof(_data), MAX_MESSAGE)
    header = MsgHdr(None, 0, ctypes.pointer(iov), 1, ctypes.addressof(_control), 1024, 0)
    while True:
        size = libc.recvmsg(fd, ctypes.byref(header), 0x40000000)  # MSG_CMSG_CLOEXEC
        if size >= 0:
            break
        if ctypes.get_errno() != errno.EINTR:
            check(size)
    if header.flags & 0x28:  # MSG_CTRUNC | MSG_TRUNC
        raise OSError(errno.EMSGSIZE, "a message was cut off", "")
    fds = array.array("i")
    offset, used = 0, header.controllen
    raw = _control.raw[:used]
    while offset + 16 <= used:
        length, level, kind = struct.unpack_from("Qii", raw, offset)
        if length < 16:
            break
        if (level, kind) == (1, 1):  # SOL_SOCKET, SCM_RIGHTS
            for index in range((length - 16) // 4):
                fds.append(struct.unpack_from("i", raw, offset + 16 + 4 * index)[0])
        offset += (length + 7) & ~7
    if size == 0:
        return None, []
    return json.loads(_data.raw[:size].decode("utf-8")), list(fds)


def send(fd, message):
    raw = json.dumps(message).encode("utf-8")
    while libc.send(fd, raw, len(raw), 0x4000) < 0:  # MSG_NOSIGNAL
        if ctypes.get_errno() != errno.EINTR:
            os._exit(EXIT_NO_SANDBOXD)


# -- the executor of plans ----------------------------------------------------------------------------------------------


def mount(source, target, fstype, flags, data=None):
    check(libc.mount(encoded(source), encoded(target), encoded(fstype), flags, encoded(data)), target)


def do_join_cgroups(fds, *names):
    for name in names:
        fd = fds.pop(name)
        os.write(fd, b"0")
        os.close(fd)


def do_setns(fds, name, kind):
    fd = fds.pop(name)
    check(libc.setns(fd, kind))
    os.close(fd)


def do_move_mount(fds, name, target):
    fd = fds.pop(name)
    check(libc.syscall(ctypes.c_long(SYS_MOVE_MOUNT), fd, b"", -100, encoded(target), 4), target)
    os.close(fd)


def do_mask_file(fds, path):
    if os.path.exists(path):
        mount("/dev/null", path, None, MS_BIND)


def do_mask_directory(fds, path):
    if os.path.isdir(path):
        mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=2,mode=555")


def do_read_only(fds, path):
    mount(path, path, None, MS_BIND | MS_REC)
    mount(None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def do_sethostname(fds, name):
    raw = encoded(name)
    check(libc.sethostname(raw, len(raw)))


def do_bounding_set(fds, keep):
    for capability in range(64):
        if capability not in keep and libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            if ctypes.get_errno() != errno.EINVAL:
                check(-1)
            return  # the kernel's last capability is behind us


def do_capabilities(fds, keep):
    libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)
    low = sum(1 << c for c in keep if c < 32)
    high = sum(1 << (c - 32) for c in keep if c >= 32)
    header = CapHeader(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    check(libc.syscall(ctypes.c_long(SYS_CAPSET), ctypes.byref(header), ctypes.byref(data)))


def do_set_ids(fds, uid, gid):
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def do_limit(fds, name, value):
    number = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(number)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(number, (value, value))


#: System call filters by name, ready for the kernel since the zygote's start: a step costs its sandbox one call.
FILTERS = {}


def load_filters(encoded_programs):
    """Programs of 8-byte instructions in base64, made on the host (sandbox/seccomp.py)."""
    for name, text in encoded_programs.items():
        program = base64.b64decode(text)
        FILTERS[name] = SockFprog(len(program) // 8, program)


def do_seccomp(fds, name):
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(FILTERS[name]), 0, 0))


def do_tell(fds, name):
    os.write(fds[name], b"1")


def do_wait(fds, name):
    if read_retrying(fds[name]) != b"1":
        raise OSError(errno.EPIPE, os.strerror(errno.EPIPE), "")


def do_map_ids(fds, pid, inside, uid, gid):
    for name, outside in (("uid_map", uid), ("gid_map", gid)):
        path = "/proc/%d/%s" % (pid, name)
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, ("%d %d 1" % (inside, outside)).encode("ascii"))
        finally:
            os.close(fd)


OPERATIONS = {
    "join_cgroups": do_join_cgroups,
    "unshare": lambda fds, flags: check(libc.unshare(flags)),
    "setns": do_setns,
    "mount": lambda fds, *args: mount(*args),
    "move_mount": do_move_mount,
    "mask_file": do_mask_file,
    "mask_directory": do_mask_directory,
    "read_only": do_read_only,
    "sethostname": do_sethostname,
    "umask": lambda fds, mask: os.umask(mask),
    "bounding_set": do_bounding_set,
    "capabilities": do_capabilities,
    "set_ids": do_set_ids,
    "no_new_privs": lambda fds: check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
    "dumpable": lambda fds, dumpable: check(libc.prctl(PR_SET_DUMPABLE, int(dumpable), 0, 0, 0)),
    "limit": do_limit,
    "tell": do_tell,
    "wait": do_wait,
    "map_ids": do_map_ids,
    "seccomp": do_seccomp,
}


def run(stage, steps, fds, channel):
    """Run a plan; a step that fails is told to sandboxd and ends this process."""
    for index, (op, args, hint) in enumerate(steps, 1):
        try:
            OPERATIONS[op](fds, *args)
        except (EnvironmentError, ValueError) as error:
            step = "step %d %s" % (index, op)
            number = getattr(error, "errno", None) or 0
            path = getattr(error, "filename", None) or ""
            send(channel, {"op": "error", "stage": stage, "step": step, "errno": number, "path": path, "hint": hint})
            os._exit(EXIT_STEP_FAILED)


# -- forking ------------------------------------------------------------------------------------------------------------

# os.fork runs hooks before and after that copy 200 pages, 0.9 ms, in a process that needs none of them: here is one thread, and no lock is
# held. From 3.10 on a signal handler asks nothing that they set (before, it compares pids); the worker gets them all the same.
_python = ctypes.PyDLL(None, use_errno=True)
_has_plain_fork = sys.version_info >= (3, 10)


def fork_plainly():
    """fork(2) without Python's hooks where it can do without; what os.fork returns and raises."""
    return check(_python.fork()) if _has_plain_fork else os.fork()


def become_python_again():
    """The hooks, in a child of `fork_plainly` that will run code of others."""
    if _has_plain_fork:
        _python.PyOS_AfterFork_Child()


# -- PID 1 --------------------------------------------------------------------------------------------------------------


def start_sandbox(request, fds):
    """PID 1 of a new sandbox, right after the fork. Never returns."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the zygote ignores it; we must see how the worker ends
    control, worker_socket, log = fds.pop("@control"), fds.pop("@worker"), fds.pop("@log")
    run("enter", request["enter"], fds, control)
    ours, theirs = socket.socketpair()
    pid = fork_plainly()
    if pid == 0:
        become_python_again()
        ours.close()
        start_worker(request, fds, control, worker_socket, log, theirs)
    theirs.close()
    for fd in (worker_socket, log):
        os.close(fd)
    run("mounts", request["mounts"], fds, control)
    run("map", request["map"], {"@worker": ours.fileno()}, control)
    if "attach" in request:  # made for a call that waits: its function came along, and saves a round trip
        run("attach", request["attach"], fds, control)
        run("drop", request["drop"], fds, control)
    elif request["rehearsal"]:
        rehearse_specialising()
    if read_retrying(ours.fileno()) == b"1":  # rehearsed; nothing means that it died, which the loop below finds
        send(control, {"op": "ready"})
    ours.close()
    reap_until_end(control, pid)


def rehearse_specialising():
    """Take the way of `specialise` once with a plan that changes nothing: its copy-on-write faults are paid before a call waits."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    send(theirs.fileno(), {"fds": [], "attach": [["umask", [0o022], ""]], "drop": [["limit", ["CORE", 0], ""], ["dumpable", [True], ""]]})
    select_retrying([ours.fileno()])
    message, received = receive(ours.fileno())
    specialise(ours.fileno(), message, received)
    ours.close()
    theirs.close()


def read_retrying(fd):
    while True:
        try:
            return os.read(fd, 1)
        except OSError as error:
            if error.errno != errno.EINTR:
                raise


def start_worker(request, fds, control, worker_socket, log, init):
    """The worker's process: drop to the sandbox's uid, rehearse, then serve. Never returns."""
    run("worker", request["worker"], dict(fds, **{"@init": init.fileno()}), control)
    for fd in [control] + list(fds.values()):  # with `attach` the function's trees came along, which PID 1 attaches: no door for user code
        os.close(fd)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(worker_socket, CHANNEL)
    for fd in (log, worker_socket):
        if fd != CHANNEL:
            os.close(fd)
    fcntl.fcntl(CHANNEL, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    worker.reseed()
    if request["rehearsal"]:  # a call waits for one made at need: it pays the faults itself, once instead of twice
        worker.rehearse(request["rehearsal"])
    os.write(init.fileno(), b"1")
    init.close()
    worker.serve(CHANNEL, _ours)
    os._exit(0)


def reap_until_end(control, worker_pid):
    """PID 1's life: reap, specialise once when told, report the worker's end. End of file on control ends everything."""
    read_end, write_end = os.pipe()
    for fd in (read_end, write_end):
        set_nonblocking(fd)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write_end)
    status = reap(worker_pid)
    while status is None:
        ready = select_retrying([control, read_end])
        if read_end in ready:
            drain(read_end)
        if control in ready:
            message, received = receive(control)
            if message is None:
                os._exit(0)  # the kernel kills the rest of the namespace, pid_namespaces(7)
            specialise(control, message, received)
        status = reap(worker_pid)
    send(control, {"op": "exited", "status": status})
    os._exit(0)


def specialise(control, message, received):
    fds = dict(zip(message["fds"], received))
    run("attach", message["attach"], fds, control)
    run("drop", message["drop"], fds, control)
    send(control, {"op": "specialised"})


def set_nonblocking(fd):
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)


def select_retrying(fds):
    while True:
        try:
            return select.select(fds, [], [])[0]
        except (select.error, OSError) as error:
            if error.args[0] != errno.EINTR:
                raise


def drain(fd):
    try:
        os.read(fd, 4096)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EINTR):
            raise


def reap(worker_pid):
    """Collect every dead child; the worker's wait status if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except OSError as error:
            if error.errno == errno.EINTR:
                continue
            return found
        if pid == 0:
            return found
        if pid == worker_pid:
            found = status


# -- the zygote itself ----------------------------------------------------------------------------------------------------


#: Names of our modules, found once for all workers.
_ours = []


def preload(names):
    """Import what will be shared; what does not import is reported, not fatal."""
    skipped = {}
    for name in names:
        try:
            __import__(str(name))
        except Exception as error:
            skipped[name] = str(error)
    return skipped


def fork_sandbox(request, received):
    """unshare(CLONE_NEWPID) acts on the next child only; setns to our own namespace makes ready for the one after."""
    fds = dict(zip(request["fds"], received))
    check(libc.unshare(CLONE_NEWPID))
    try:
        pid = fork_plainly()
    except OSError:
        pid = -1
    if pid == 0:
        try:
            os.close(CHANNEL)
            os.close(PID_NAMESPACE)
            start_sandbox(request, fds)
        except BaseException:
            traceback.print_exc()
        os._exit(EXIT_STEP_FAILED)
    check(libc.setns(PID_NAMESPACE, CLONE_NEWPID))
    for fd in received:
        os.close(fd)  # where the fork failed, sandboxd sees end of file on the control socket


def prepare_streams():
    """stdout and stderr for all workers. Made on a pipe, as descriptors 1 and 2 will be there: streams remember what they find out."""
    reading, writing = os.pipe()
    saved = [os.dup(1), os.dup(2)]
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    worker.prepare_streams()
    os.dup2(saved[0], 1)
    os.dup2(saved[1], 2)
    for fd in saved + [reading, writing]:
        os.close(fd)


def main():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    message, _ = receive(CHANNEL)
    skipped = preload(message["preloads"])
    # once here, so that what it imports and caches is shared: it halves what each sandbox's own rehearsal makes private
    worker.reseed()
    prepare_streams()
    worker.rehearse(message["rehearsal"])
    _ours[:] = worker.find_ours()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # our children are reaped by the kernel
    sys.argv[:] = [""]
    do_bounding_set({}, [])  # for all sandboxes at once: what we hold stays ours, but no exec can regain it
    load_filters(message["filters"])
    do_seccomp({}, "base")  # for all sandboxes at once: installing it costs 0.25 ms, inheriting it nothing
    gc.collect()
    if hasattr(gc, "freeze"):
        gc.freeze()
    send(CHANNEL, {"op": "ready", "python": platform.python_version(), "skipped": skipped})
    while True:
        message, received = receive(CHANNEL)
        if message is None:
            os._exit(0)
        fork_sandbox(message, received)


if __name__ == "__main__":
    main()
