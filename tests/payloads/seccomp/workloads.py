"""What ordinary functions do, one function each; the handler runs the one that the event names. Python 2.7 and 3."""

import os
import sys


def threads():
    import threading

    total, lock, done = [0], threading.Lock(), threading.Event()

    def add():
        for _ in range(1000):
            with lock:
                total[0] += 1

    several = [threading.Thread(target=add) for _ in range(20)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    threading.Timer(0.01, done.set).start()
    assert done.wait(5) or sys.version_info < (2, 7, 6)
    return total[0] == 20000


def processes():
    import subprocess

    assert subprocess.check_output(["/bin/sh", "-c", "echo $((6*7))"]) == b"42\n"
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True)
    assert cat.communicate(b"x" * 100000)[0] == b"x" * 100000
    assert subprocess.call("exit 3", shell=True) == 3
    code = "import os, sys; sys.stdout.write(str(os.getppid()))"
    assert subprocess.check_output([sys.executable, "-c", code]).decode() == str(os.getpid())
    assert os.system("true") == 0 and os.popen("echo a").read() == "a\n"
    sleeper = subprocess.Popen(["sleep", "60"])
    sleeper.terminate()
    assert sleeper.wait() == -15
    if hasattr(os, "posix_spawn"):
        assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
    return True


def square(number):
    return number * number


def multiprocessing_fork():
    import multiprocessing

    pool = multiprocessing.Pool(2)
    assert pool.map(square, range(20)) == [n * n for n in range(20)]
    pool.close()
    pool.join()
    queue, value, event = multiprocessing.Queue(), multiprocessing.Value("i", 0), multiprocessing.Event()
    semaphore, array = multiprocessing.Semaphore(0), multiprocessing.Array("d", [0.5] * 3)

    def child():
        with value.get_lock():
            value.value += 7
        array[1] = 2.5
        queue.put({"from": "child"})
        event.set()
        semaphore.release()

    process = multiprocessing.Process(target=child)
    process.start()
    assert queue.get(timeout=10) == {"from": "child"}
    semaphore.acquire()
    process.join()
    assert event.is_set() and value.value == 7 and list(array) == [0.5, 2.5, 0.5]
    here, there = multiprocessing.Pipe()
    there.send([1])
    assert here.recv() == [1]
    manager = multiprocessing.Manager()
    shared = manager.dict()
    shared["a"] = 1
    assert shared["a"] == 1
    manager.shutdown()
    return True


def multiprocessing_spawn():
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    for method in ("spawn", "forkserver"):
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16], method
    return True


def shared_memory():
    from multiprocessing import shared_memory as shm

    block = shm.SharedMemory(create=True, size=100000)
    child = os.fork()
    if child == 0:
        block.buf[5] = 77
        os._exit(0)
    os.waitpid(child, 0)
    assert block.buf[5] == 77
    block.close()
    block.unlink()
    return True


def sockets():
    import select
    import socket
    import threading

    def echo(server):
        connection, _ = server.accept()
        connection.sendall(connection.recv(100).upper())
        connection.close()

    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, "/tmp/echo.sock"), (socket.AF_UNIX, "\0echo")):
        server = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(1)
        thread = threading.Thread(target=echo, args=(server,))
        thread.start()
        client = socket.socket(family, socket.SOCK_STREAM)
        client.settimeout(5)
        client.connect(server.getsockname())
        client.sendall(b"abc")
        assert client.recv(100) == b"ABC"
        thread.join()
        client.close()
        server.close()
    one, two = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 0))
    two.sendto(b"datagram", one.getsockname())
    poll = select.poll()
    poll.register(one, select.POLLIN)
    assert poll.poll(5000) and one.recvfrom(100)[0] == b"datagram"
    left, right = socket.socketpair()
    epoll = select.epoll()
    epoll.register(right.fileno(), select.EPOLLIN)
    left.send(b"x")
    assert epoll.poll(5) and select.select([right], [], [], 5)[0]
    assert socket.getaddrinfo("127.0.0.1", 80) and socket.gethostbyname("localhost") == "127.0.0.1"
    if hasattr(socket, "if_nameindex"):
        assert "lo" in [name for _, name in socket.if_nameindex()]
    return True


def event_loop():
    import event_loop as in_its_own_file  # which 2.7 could not parse

    return in_its_own_file.run()


def files():
    import fcntl
    import mmap
    import shutil
    import stat
    import tarfile
    import tempfile
    import zipfile

    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "a")
    with open(path, "wb") as file:
        file.write(b"0123456789" * 1000)
        file.flush()
        os.fsync(file.fileno())
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
    os.chmod(path, 0o750)
    os.utime(path, (10**9, 10**9 + 2))
    os.chown(path, os.getuid(), os.getgid())
    os.symlink("a", path + ".link")
    os.link(path, path + ".hard")
    os.rename(path + ".hard", path + ".moved")
    os.mkfifo(path + ".fifo")
    assert stat.S_ISFIFO(os.stat(path + ".fifo").st_mode) and os.readlink(path + ".link") == "a"
    shutil.copy2(path, path + ".copy")
    with zipfile.ZipFile(path + ".zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "a")
    assert zipfile.ZipFile(path + ".zip").read("a") == open(path, "rb").read()
    with tarfile.open(path + ".tgz", "w:gz") as archive:
        archive.add(path, "a")
    with tarfile.open(path + ".tgz") as archive:
        archive.extractall(os.path.join(folder, "out"))
    assert os.stat(os.path.join(folder, "out", "a")).st_mtime == 10**9 + 2
    with open(path, "r+b") as file:
        area = mmap.mmap(file.fileno(), 0)
        area[0:3] = b"abc"
        area.flush()
        area.close()
    assert open(path, "rb").read(3) == b"abc"
    assert "a" in os.listdir(folder) and list(os.walk(folder))
    shutil.rmtree(folder)
    return True


def database():
    import sqlite3

    connection = sqlite3.connect("/tmp/some.db")
    connection.execute("pragma journal_mode=wal")
    connection.execute("create table t (a integer, b text)")
    with connection:
        connection.executemany("insert into t values (?, ?)", [(n, str(n)) for n in range(1000)])
    assert connection.execute("select sum(a) from t").fetchone() == (499500,)
    connection.close()
    return True


def signals_and_time():
    import resource
    import signal
    import time

    came = []
    signal.signal(signal.SIGALRM, lambda *_: came.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    end = time.time() + 5
    while not came and time.time() < end:
        time.sleep(0.001)
    assert came
    os.nice(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0 and os.times()[0] >= 0 and os.getloadavg() and os.uname()
    os.setuid(os.getuid())  # as programs do that drop privileges
    os.setgid(os.getgid())
    if sys.version_info[0] > 2:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signal.sigtimedwait([signal.SIGUSR1], 5)
        assert os.sched_getaffinity(0) and os.cpu_count() and time.thread_time() >= 0 and len(os.getrandom(8)) == 8
    return True


def extension():
    import hearth_extension

    return hearth_extension.answer() == 42


def arrays():
    import numpy

    matrix = numpy.random.RandomState(1).rand(200, 200)
    assert numpy.allclose(matrix.dot(numpy.linalg.inv(matrix)), numpy.eye(200))
    u, s, v = numpy.linalg.svd(matrix)
    assert numpy.allclose((u * s).dot(v), matrix)
    assert numpy.allclose(numpy.fft.ifft(numpy.fft.fft(matrix)), matrix)
    numpy.save("/tmp/matrix.npy", matrix)
    assert (numpy.load("/tmp/matrix.npy", mmap_mode="r") == matrix).all()
    return True


def requests_to_a_server():
    import threading

    import requests

    try:
        from http.server import BaseHTTPRequestHandler, HTTPServer
    except ImportError:
        from BaseHTTPServer import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_):
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    with requests.Session() as session:
        session.trust_env = False
        texts = [session.get("http://localhost:%d/" % server.server_port).text for _ in range(3)]
    server.shutdown()
    server.server_close()
    return texts == ["hello"] * 3


def installing():
    import subprocess

    wheel = next(name for name in os.listdir("/var/user") if name.startswith("six-"))
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-cache-dir", "--target", "/tmp/site"]
    command.append("/var/user/" + wheel)
    environment = dict(os.environ, HOME="/tmp", PIP_DISABLE_PIP_VERSION_CHECK="1")
    subprocess.check_output(command, stderr=subprocess.STDOUT, env=environment)
    return os.path.exists("/tmp/site/six.py")


def main_handler(event, context):
    return globals()[event]()
