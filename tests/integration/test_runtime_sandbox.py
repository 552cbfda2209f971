"""What a function finds when it looks around: identity, privileges, namespaces, files, environment, and nothing of its neighbours."""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.instance import Instance

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

#: Runs what it is sent, with the handler's own view; `result` is the answer.
PROBE = """
    import ctypes, errno, json, os, resource, socket, stat, subprocess, sys
    def denied(action):
        try:
            action()
        except OSError as error:
            return errno.errorcode[error.errno]
    def write(path, data):
        fd = os.open(path, os.O_WRONLY)
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)
    def status():
        lines = open("/proc/self/status").read().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    def main_handler(event, context):
        scope = {**globals(), "event": event, "context": context}
        exec(event["code"], scope)
        return scope["result"]
"""

Look = Callable[..., Any]


@pytest.fixture(scope="module", params=["zygote", "exec"])
def probe(request: pytest.FixtureRequest, hearth: Instance) -> str:
    """A function of each factory: forked from a zygote, and with an interpreter of its own."""
    environment = {"COLOUR": "red"} | ({"PYTHONHASHSEED": "7"} if request.param == "exec" else {})
    return hearth.deploy(PROBE, environment=environment, timeout=10, memory=256)


@pytest.fixture
def look(hearth: Instance, probe: str) -> Look:
    """Run lines of code in the sandbox; the value of `result` there."""

    def run(code: str, **event: Any) -> Any:
        return hearth.call(probe, {"code": textwrap.dedent(code), **event}).ok()

    return run


@pytest.fixture
def look_cut_off(hearth: Instance, request: pytest.FixtureRequest) -> Look:
    """The same in a sandbox of `network: none`; what there is of `nat` is in test_network_functions.py."""
    environment = {"PYTHONHASHSEED": "7"} if request.param == "exec" else {}
    name = hearth.deploy(PROBE, environment=environment, timeout=10, memory=256, network="none")

    def run(code: str, **event: Any) -> Any:
        return hearth.call(name, {"code": textwrap.dedent(code), **event}).ok()

    return run


# Identity and privileges --------------------------------------------------------------------------------------------------


def test_it_is_the_user_qcloud_and_nobody_else_is_mapped(look: Look) -> None:
    ids = look("result = [status()['Uid'].split(), status()['Gid'].split(), os.getgroups()]")
    assert ids == [["1000"] * 4, ["1000"] * 4, []]
    who = (
        "import getpass, pwd\nme = pwd.getpwuid(os.getuid())\nresult = [me.pw_name, me.pw_dir, getpass.getuser(), os.path.expanduser('~')]"
    )
    assert look(who) == ["qcloud", "/home/qcloud", "qcloud", "/home/qcloud"]
    for kind in ("uid", "gid"):
        (line,) = look(f"result = open('/proc/self/{kind}_map').read().splitlines()")
        assert line.split()[0] == "1000" and line.split()[2] == "1"
    assert look("result = [os.stat('/').st_uid, os.stat('/tmp').st_uid]") == [65534, 1000]  # root is nobody here


def test_stdout_and_stderr_can_be_opened_by_name(hearth: Instance, probe: str) -> None:
    code = """
        for name in ("/dev/stdout", "/dev/stderr", "/proc/self/fd/1"):
            with open(name, "w") as stream:
                stream.write("by name\\n")
        result = subprocess.call("echo from a shell > /dev/stderr", shell=True)
    """
    call = hearth.call(probe, {"code": textwrap.dedent(code)}, query="?logType=Tail")
    assert call.ok() == 0
    log = base64.b64decode(call.headers["x-scf-log"])
    assert log.count(b"by name") == 3 and b"from a shell" in log


def test_sandboxes_have_uids_of_their_own(hearth: Instance) -> None:
    names = [hearth.deploy(PROBE) for _ in range(3)]
    for name in names:
        hearth.call(name, {"code": "result = 1"}).ok()
    rows = [row for name in names for row in hearth.sandboxes(name)]
    assert len({row["uid"] for row in rows}) == 3
    for row in rows:
        assert Path(f"/proc/{row['pid']}/status").read_text().split("Uid:")[1].split()[0] == str(row["uid"])


def test_worker_and_init_have_no_capability_and_can_gain_none(hearth: Instance, probe: str, look: Look) -> None:
    wanted = {"CapInh": "0" * 16, "CapPrm": "0" * 16, "CapEff": "0" * 16, "CapBnd": "0" * 16, "CapAmb": "0" * 16, "NoNewPrivs": "1"}
    assert look("result = {key: status()[key] for key in event['keys']}", keys=list(wanted)) == wanted
    (row,) = hearth.sandboxes(probe)
    lines = Path(f"/proc/{row['pid']}/status").read_text().splitlines()
    init = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    assert {key: init[key] for key in wanted} == wanted
    assert init["Uid"].split() == [str(row["uid"])] * 4


# Namespaces ---------------------------------------------------------------------------------------------------------------


def test_it_is_process_2_of_its_own_pid_namespace_and_sees_no_other(look: Look) -> None:
    assert look("result = [os.getpid(), os.getppid(), sorted(int(p) for p in os.listdir('/proc') if p.isdigit())]") == [2, 1, [1, 2]]


@pytest.mark.parametrize("kind", ["pid", "mnt", "net", "ipc", "uts", "cgroup", "user"])
def test_its_namespaces_are_neither_the_host_s_nor_another_sandbox_s(hearth: Instance, probe: str, look: Look, kind: str) -> None:
    code = f"result = os.readlink('/proc/self/ns/{kind}')"
    other = hearth.deploy(PROBE)
    seen = [look(code), hearth.call(other, {"code": code}).ok(), Path(f"/proc/self/ns/{kind}").readlink().as_posix()]
    assert len(set(seen)) == 3
    hearth.delete(other)


@pytest.mark.parametrize("look_cut_off", ["zygote", "exec"], indirect=True)
def test_only_a_loopback_is_there_and_it_is_up(look_cut_off: Look) -> None:
    look = look_cut_off
    assert look("result = sorted(os.listdir('/sys/class/net')) if os.path.isdir('/sys/class/net') else []") in ([], ["lo"])
    assert look("result = [name for _, name in socket.if_nameindex()]") == ["lo"]
    talk = """
        server = socket.create_server(('127.0.0.1', 0))
        client = socket.create_connection(server.getsockname(), 2)
        peer, _ = server.accept()
        client.sendall(b'hello')
        result = peer.recv(5).decode()
        [one.close() for one in (server, client, peer)]
    """
    assert look(talk) == "hello"


@pytest.mark.parametrize("look_cut_off", ["zygote", "exec"], indirect=True)
def test_the_world_and_the_host_cannot_be_reached(hearth: Instance, look_cut_off: Look) -> None:
    reach = "result = [denied(lambda: socket.create_connection((host, port), 1)) for host, port in event['to']]"
    answers = look_cut_off(reach, to=[["127.0.0.1", hearth.port], ["10.0.0.1", 80], ["8.8.8.8", 53]])
    assert answers == ["ECONNREFUSED", "ENETUNREACH", "ENETUNREACH"]


def test_its_host_name_is_not_the_host_s(look: Look) -> None:
    assert look("result = [socket.gethostname(), os.environ['HOSTNAME']]") == ["sandbox", "sandbox"]


# Files --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/x", "/etc/x", "/var/user/x", "/var/user/index.py", "/opt/x", "/usr/x", "/dev/x", "/proc/x", "/home/qcloud/x"]
)
def test_everything_is_read_only(look: Look, path: str) -> None:
    assert look("result = denied(lambda: open(event['path'], 'w'))", path=path) in ("EROFS", "EACCES", "ENOENT")
    if not path.startswith("/proc"):
        assert look("result = bool(os.statvfs(os.path.dirname(event['path'])).f_flag & os.ST_RDONLY)", path=path)


def test_tmp_is_writable_and_runs_programs(look: Look) -> None:
    code = """
        with open('/tmp/script', 'w') as file:
            file.write('#!/bin/sh\\necho from $0')
        os.chmod('/tmp/script', 0o755)
        result = subprocess.run('/tmp/script', capture_output=True, text=True).stdout
    """
    assert look(code) == "from /tmp/script\n"


def test_setuid_bits_and_devices_mean_nothing_on_any_mount(look: Look) -> None:
    mounts = look("result = [line.split() for line in open('/proc/self/mountinfo').read().splitlines()]")
    options = {fields[4]: set(fields[5].split(",")) for fields in mounts}
    assert {"/", "/tmp", "/var/user", "/proc", "/dev/shm"} <= set(options)
    # single files: the device nodes, and /dev/null over files of /proc; nobody can put anything there
    files = {path for path in options if path.startswith(("/dev/", "/proc/")) and path not in ("/dev/shm",)}
    assert {path: found for path, found in options.items() if not {"nosuid", "nodev"} <= found and path not in (files | {"/dev"})} == {}
    assert "nosuid" in options["/dev"]


def test_no_mount_tells_a_path_of_the_host(hearth: Instance, look: Look) -> None:
    assert str(hearth.home.parent) not in look("result = open('/proc/self/mounts').read() + open('/proc/self/maps').read()")


def test_dev_is_minimal(look: Look) -> None:
    assert look("result = sorted(os.listdir('/dev'))") == [
        "fd",
        "full",
        "null",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "urandom",
        "zero",
    ]
    assert look("result = [len(os.urandom(4)), write('/dev/null', b'x'), denied(lambda: write('/dev/full', b'x'))]") == [4, 1, "ENOSPC"]


def test_neither_cgroups_nor_the_host_s_sys_are_there(look: Look) -> None:
    assert look("result = os.listdir('/sys') if os.path.isdir('/sys') else []") == []
    ours = look("result = [line.split(':', 2)[2] for line in open('/proc/self/cgroup').read().splitlines()]")
    assert [path for path in ours if "hearth" in path] == []


# Process ------------------------------------------------------------------------------------------------------------------


def test_no_descriptor_is_open_but_the_standard_ones_and_the_link(look: Look) -> None:
    code = """
        result = {}
        for fd in os.listdir('/proc/self/fd'):
            try:
                result[fd] = os.readlink('/proc/self/fd/' + fd).split(':')[0]
            except OSError:
                continue
    """
    found = look(code)
    kinds = {int(fd): kind for fd, kind in found.items()}
    assert kinds.pop(0) == "/dev/null"
    assert (kinds.pop(1), kinds.pop(2)) == ("pipe", "pipe")
    assert list(kinds.values()) == ["socket"]


def test_a_child_inherits_only_the_standard_descriptors(look: Look) -> None:
    code = """
        script = 'for fd in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$fd ] && echo $fd; done; true'
        result = subprocess.run(['/bin/sh', '-c', script], capture_output=True, text=True, close_fds=False).stdout.split()
    """
    assert look(code) == ["0", "1", "2"]


def test_its_limits(look: Look) -> None:
    code = "result = [resource.getrlimit(getattr(resource, 'RLIMIT_' + name)) for name in ('NOFILE', 'CORE')]"
    assert look(code) == [[1024, 1024], [0, 0]]


def test_user_code_sees_ordinary_signals_and_can_wait_for_children(look: Look) -> None:
    code = "result = [subprocess.run(['/bin/sh', '-c', 'exit 7']).returncode, subprocess.run(['/bin/sh', '-c', 'kill -9 $$']).returncode]"
    assert look(code) == [7, -9]


def test_it_is_not_dumpable_for_another_sandbox_but_can_read_itself(look: Look) -> None:
    assert look("result = [len(open('/proc/self/environ').read()) > 0, len(os.listdir('/proc/self/fd')) > 3]") == [True, True]


# SCF's environment and context ----------------------------------------------------------------------------------------------


def test_its_environment_is_scf_s(hearth: Instance, probe: str, look: Look) -> None:
    seen = look("result = dict(os.environ)")
    wanted = {
        "TENCENTCLOUD_RUNENV": "SCF",
        "TENCENTCLOUD_REGION": "local",
        "TENCENTCLOUD_TZ": "UTC",
        "USER_CODE_ROOT": "/var/user/",
        "SCF_FUNCTIONNAME": probe,
        "SCF_FUNCTIONVERSION": "$LATEST",
        "SCF_NAMESPACE": "default",
        "SCF_RUNTIME": "python3",
        "PYTHONDONTWRITEBYTECODE": "x",
        "PYTHONPATH": "/var/user:/opt",
        "LD_LIBRARY_PATH": "/var/runtime/java8:/var/user:/opt",
        "HOME": "/home/qcloud",
        "USER": "qcloud",
        "LOGNAME": "qcloud",
        "PWD": "/var/user",
        "SHELL": "/bin/bash",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "COLOUR": "red",
    }
    assert {key: seen.get(key) for key in wanted} == wanted
    assert [key for key in seen if key.startswith("HEARTH")] == []
    assert str(hearth.home) not in str(seen)
    assert look("result = [os.getcwd(), sys.path[0], os.path.expanduser('~')]") == ["/var/user", "/var/user", "/home/qcloud"]


def test_its_context_is_scf_s(hearth: Instance, probe: str) -> None:
    answer = hearth.call(probe, {"code": "result = context"})
    context = answer.ok()
    assert {"COLOUR": "red"}.items() <= json.loads(context.pop("environment")).items()
    assert "SCF_NAMESPACE=default" in context.pop("environ").split(";")
    assert context == {
        "memory_limit_in_mb": 256,
        "time_limit_in_ms": 10_000,
        "request_id": answer.request_id,
        "function_version": "$LATEST",
        "function_name": probe,
        "namespace": "default",
        "tencentcloud_region": "local",
        "tencentcloud_appid": context["tencentcloud_appid"],
        "tencentcloud_uin": context["tencentcloud_uin"],
    }


def test_print_and_logging_are_in_the_log_of_their_call_only(hearth: Instance, probe: str) -> None:
    first = hearth.call(
        probe, {"code": "import logging\nprint('printed é')\nlogging.info('logged')\nos.system('echo by a child')\nresult = 1"}
    )
    second = hearth.call(probe, {"code": "print('second')\nresult = 2"}, query="?logType=Tail")
    log = hearth.record(first)["log"]
    assert "printed é\n" in log and "logged" in log and "by a child\n" in log
    assert hearth.record(second)["log"] == "second\n"
    assert base64.b64decode(second.headers["x-scf-log"]) == b"second\n"


def test_random_numbers_and_secrets_differ_between_workers(hearth: Instance) -> None:
    name = hearth.deploy("""
        import os, random, time, uuid
        def main_handler(event, context):
            time.sleep(0.2)
            return random.random(), str(uuid.uuid4()), os.urandom(8).hex()
    """)
    answers = [call.result().ok() for call in [hearth.call_soon(name, {}) for _ in range(4)]]
    for values in zip(*answers, strict=True):
        assert len(set(values)) == 4
