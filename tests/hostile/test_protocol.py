"""The worker's link in hostile hands: each frame is written by the function itself, past the program that serves it.

The control is the same words with a frame that is right: it is taken for the reply. Sources: DESIGN section 5, docs of sandbox/protocol.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from tests.integration.instance import Instance, wait_until

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

HEAD = """
import json, os, socket, stat, struct, sys, threading, time
LINK = next(fd for fd in range(3, 64) if os.path.exists("/proc/self/fd/%d" % fd) and stat.S_ISSOCK(os.fstat(fd).st_mode))
def packed(head, body=b""):
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("!II", len(raw), len(body)) + raw + body
def send(data):
    while data:
        data = data[os.write(LINK, data):]
def main_handler(event, context):
    if not event:
        return "served"
    me = {"op": "result", "id": context["request_id"]}
    failed = {"op": "failed", "id": context["request_id"], "code": "handler_error", "message": "m", "trace": "t"}
    exec(event["code"], dict(globals(), me=me, failed=failed, context=context, event=event))
    os._exit(0)
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """`code` writes to the link and the process ends; the call comes to one of `scf`."""

    name: str
    code: str
    scf: tuple[int, ...] = (439,)


BROKEN = [
    Frame("nothing", "pass"),
    Frame("half a header", "send(bytes(4))"),
    Frame("a header and no more", 'send(struct.pack("!II", 10, 0))'),
    Frame("half a frame", 'send(packed(me, b"12345")[:-3])'),
    Frame("a frame that never ends", 'send(packed(me, b"12345")[:-3]); time.sleep(60)', (433,)),
    Frame(
        "one byte now and then, for ever",
        "data = packed(me, b'1' * 9999)\nfor n in range(9999): os.write(LINK, data[n:n + 1]); time.sleep(.01)",
        (433,),
    ),
    Frame("an empty head", "send(packed(b''))"),
    Frame("zeros", "send(bytes(100000))"),
    Frame("random bytes", "send(os.urandom(100000))", (407, 439)),
    Frame("an HTTP response", 'send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 1\\r\\n\\r\\n1")', (407, 439)),
    Frame("a head that is no JSON", 'send(packed(b"{op: result}"))'),
    Frame("a head that is a list", "send(packed([me]))"),
    Frame("a head that is a text", 'send(packed("result"))'),
    Frame("a head that is null", "send(packed(None))"),
    Frame("a head that is not UTF-8", 'send(packed(b\'{"op": "\\xff\\xfe"}\'))'),
    Frame("a head with a NUL", 'send(packed(b\'{"op": "result\\x00"}\'))'),
    Frame("a head of NaN", "send(packed(b'{\"op\": NaN}'))"),
    Frame("a head with a number beyond all", "send(packed(b'{\"op\": 1' + b'0' * 9999 + b'}'))"),
    Frame("a head nested a hundred thousand times", "send(packed(b'[' * 100000))"),
    Frame("a head of objects nested", "send(packed(b'{\"a\":' * 40000 + b'1' + b'}' * 40000))"),
    Frame("a head one byte over its limit", 'send(packed(json.dumps(me).encode().ljust(262145), b"1"))'),
    Frame("a head of 4 GB", 'send(struct.pack("!II", 0xFFFFFFFF, 0))'),
    Frame("a body of 6 GB in a header of 64 bits", 'send(struct.pack("!Q", 6 << 30) + packed(me))', (407, 439)),
    Frame("a body of 4 GB", 'send(struct.pack("!II", 2, 0xFFFFFFFF) + b"{}")', (407,)),
    Frame("a body over its limit", 'send(packed(me, b"1" * (7 << 20)))', (407,)),
    Frame("bytes behind the frame", 'send(packed(me, b"1") + b"x")'),
    Frame("a second frame behind the first", 'send(packed(me, b"1") * 2)'),
    Frame("a body that is no JSON", 'send(packed(me, b"{]"))'),
    Frame("no body", "send(packed(me))"),
    Frame("a body of NaN", 'send(packed(me, b"NaN"))'),
    Frame("a body that is not UTF-8", 'send(packed(me, b"\\"\\xff\\""))'),
    Frame("two values in the body", 'send(packed(me, b"1 2"))'),
]

LIES = [
    Frame("of nobody", 'send(packed({"op": "result"}, b"1"))'),
    Frame("of null", 'send(packed({"op": "result", "id": None}, b"1"))'),
    Frame("of a list", 'send(packed({"op": "result", "id": [context["request_id"]]}, b"1"))'),
    Frame("of another call", 'send(packed({"op": "result", "id": "01234567-0000-7000-8000-000000000000"}, b"1"))'),
    Frame("of its name in capitals", 'send(packed({"op": "result", "id": context["request_id"].upper()}, b"1"))'),
    Frame(
        "of two ids",
        'send(packed(("{\\"op\\": \\"result\\", \\"id\\": \\"%s\\", \\"id\\": \\"x\\"}" % context["request_id"]).encode(), b"1"))',
    ),
    Frame("of no operation", 'send(packed({"id": context["request_id"]}, b"1"))'),
    Frame("of an unknown operation", 'send(packed(dict(me, op="exit"), b"1"))'),
    Frame("of a list of operations", 'send(packed(dict(me, op=["result"]), b"1"))'),
    Frame("of hello", 'send(packed(dict(me, op="hello", protocol=1), b"1"))'),
    Frame("of loading", 'send(packed(dict(me, op="loaded"), b"1"))'),
    Frame("of failing to load", 'send(packed(dict(failed, op="load_failed", code="user_code_error")))'),
    Frame("of a host's failure", 'send(packed(dict(failed, code="no_capacity")))'),
    Frame("of a class as its code", 'send(packed(dict(failed, code="__class__")))'),
    Frame("of a list as its code", 'send(packed(dict(failed, code=["handler_error"])))'),
    Frame("of sandboxd's verdict", 'send(packed({"op": "release", "id": 1, "verdict": "ok", "dead": True}))'),
]

TAKEN = [
    Frame("a reply by hand", 'send(packed(me, b"\\"by hand\\""))', (200,)),
    Frame("a failure by hand", "send(packed(failed))", (430,)),
    Frame("a reply in single bytes", 'for byte in packed(me, b"\\"by hand\\""): os.write(LINK, bytes([byte]))', (200,)),
    Frame(
        "a reply with descriptors beside it",
        'socket.socket(fileno=os.dup(LINK)).sendmsg([packed(me, b"\\"by hand\\"")], [(1, 1, struct.pack("200i", *([1] * 200)))])',
        (200,),
    ),
    Frame("a failure with odd texts", 'send(packed(dict(failed, message={"a": [1]}, trace=[None])))', (430,)),
    Frame("a failure with a huge trace", 'send(packed(dict(failed, message="m" * 50000, trace="t" * 200000)))', (430,)),
    Frame("a body nested a hundred thousand times", 'send(packed(me, b"[" * 100000 + b"]" * 100000))', (430,)),
    Frame("an unknown key beside", 'send(packed(dict(me, verdict="ok", memory=1), b"\\"by hand\\""))', (200,)),
]


@pytest.fixture(scope="module")
def name(hearth: Instance) -> str:
    return hearth.deploy(HEAD, timeout=1)


@pytest.fixture(scope="module")
def neighbour(hearth: Instance) -> str:
    return hearth.deploy("calls = []\ndef main_handler(event, context):\n    calls.append(1)\n    return len(calls)\n")


def descriptors(hearth: Instance) -> int:
    """Open in all workers of the API."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in hearth.part("gunicorn"))


@pytest.mark.parametrize("frame", BROKEN, ids=lambda frame: frame.name)
def test_a_worker_that_sends(hearth: Instance, name: str, neighbour: str, frame: Frame) -> None:
    assert_contained(hearth, name, neighbour, frame)


@pytest.mark.parametrize("frame", LIES, ids=lambda frame: frame.name)
def test_a_reply(hearth: Instance, name: str, neighbour: str, frame: Frame) -> None:
    assert_contained(hearth, name, neighbour, frame)


def assert_contained(hearth: Instance, name: str, neighbour: str, frame: Frame) -> None:
    calls = hearth.call(neighbour).ok()
    answer = hearth.call(name, {"code": frame.code})
    assert answer.scf in frame.scf, (answer.scf, answer.content[:500])
    assert b"Traceback" not in answer.content and b"sandbox/" not in answer.content and b"orjson" not in answer.content
    assert hearth.call(name, {}).ok() == "served"
    assert hearth.call(neighbour).ok() == calls + 1


@pytest.mark.parametrize("frame", TAKEN, ids=lambda frame: frame.name)
def test_the_control_is_taken(hearth: Instance, name: str, frame: Frame) -> None:
    answer = hearth.call(name, {"code": frame.code})
    assert answer.scf in frame.scf, (answer.scf, answer.content[:500])
    assert answer.scf != 200 or answer.body == "by hand"
    wait_until(lambda: not hearth.sandboxes(name), "the process that replied and ended is gone")
    assert hearth.call(name, {}).ok() == "served"


def test_descriptors_sent_along_are_not_kept_by_the_api(hearth: Instance, name: str) -> None:
    hearth.call(name, {}).ok()
    before = descriptors(hearth)
    for _ in range(5):
        hearth.call(name, {"code": TAKEN[3].code}).ok()
        wait_until(lambda: not hearth.sandboxes(name), "it is gone")
    wait_until(lambda: descriptors(hearth) <= before + 5, "the API has its own descriptors only")


def test_a_reply_that_names_an_earlier_call_is_no_reply(hearth: Instance, name: str) -> None:
    earlier = hearth.call(name, {}).request_id
    answer = hearth.call(name, {"code": f'send(packed({{"op": "result", "id": "{earlier}"}}, b"\\"forged\\""))'})
    assert answer.scf == 439 and answer.request_id != earlier
    assert hearth.record(earlier)["result"] == "served"
    assert hearth.call(name, {}).ok() == "served"


def test_a_reply_after_the_deadline_is_too_late(hearth: Instance, name: str) -> None:
    late = 'time.sleep(0.9)\nend = time.time() + 5\nwhile time.time() < end:\n    time.sleep(0.01)\nsend(packed(me, b"1"))'
    answer = hearth.call(name, {"code": late})
    assert answer.outcome == (504, 433)
    assert hearth.call(name, {}).ok() == "served"
