"""The functions of the load: each gets a nonce and must give back what nobody else was to have."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.integration.instance import Answer

CPU_ROUNDS = 3000
MEMORY_MB = 30
LARGE_BYTES = 300_000
LOG_LINES = 40
OK = (200, 200)


@dataclass(frozen=True, slots=True)
class Kind:
    """One function. `weight` is its share of the calls; `wrong(nonce, answer)` is empty for the answer that belongs to the call."""

    name: str
    code: str
    wrong: Callable[[str, Answer], str]
    weight: int = 4
    configuration: dict[str, Any] = field(default_factory=dict)
    query: str = ""


def _returned(expected: Callable[[str], Any]) -> Callable[[str, Answer], str]:
    """The value, and with it the request id as the function saw it: the header's."""

    def wrong(nonce: str, answer: Answer) -> str:
        if answer.outcome != OK:
            return f"{answer.outcome}: {answer.content[:300]!r}"
        wanted = {"value": expected(nonce), "id": answer.request_id}
        return "" if answer.body == wanted else f"{str(answer.body)[:200]} instead of {str(wanted)[:200]}"

    return wrong


def _failed(outcome: tuple[int, int], *, tells_nonce: bool) -> Callable[[str, Answer], str]:
    def wrong(nonce: str, answer: Answer) -> str:
        if answer.outcome != outcome:
            return f"{answer.outcome} instead of {outcome}: {answer.content[:300]!r}"
        if answer.body["requestId"] != answer.request_id:
            return f"names request {answer.body['requestId']}, its header {answer.request_id}"
        return f"another call's error: {answer.content[:300]!r}" if tells_nonce and nonce not in answer.body["stackTrace"] else ""

    return wrong


def _logged(nonce: str, answer: Answer) -> str:
    """The log's end holds this call's lines and nobody else's."""
    if text := _returned(lambda own: own)(nonce, answer):
        return text
    log = base64.b64decode(answer.headers["x-scf-log"]).decode()
    lines = [line for line in log.splitlines() if line.startswith("line ")]
    strange = [line for line in lines if not line.endswith(nonce)]
    return f"strange lines in the log: {strange[:3]}" if strange or len(lines) != LOG_LINES else ""


def _hashed(nonce: str) -> str:
    value = nonce.encode()
    for _ in range(CPU_ROUNDS):
        value = hashlib.sha256(value).digest()
    return value.hex()


def _source(body: str, *imports: str) -> str:
    lines = [*(f"import {name}" for name in imports), "def main_handler(event, context):", '    nonce = event["nonce"]']
    return "\n".join([*lines, *(f"    {line}" for line in body.splitlines())]) + "\n"


def _returning(value: str, *imports: str, before: str = "") -> str:
    return _source(f'{before}\nreturn {{"value": {value}, "id": context["request_id"]}}'.strip(), *imports)


_CPU = f"value = nonce.encode()\nfor _ in range({CPU_ROUNDS}):\n    value = hashlib.sha256(value).digest()"
_MEMORY = f"held = bytearray(nonce.encode()) * ({MEMORY_MB} * 1000000 // len(nonce))"
_TMP = """path = "/tmp/" + nonce
before = sorted(os.listdir("/tmp"))
with open(path, "w") as file:
    file.write(nonce * 1000)
with open(path) as file:
    text = file.read()
os.unlink(path)"""
_LOG = f"for number in range({LOG_LINES}):\n    print('line', number, nonce)"

KINDS = (
    Kind("echo", _returning("nonce"), _returned(lambda nonce: nonce), weight=12),
    Kind("cpu", _returning("value.hex()", "hashlib", before=_CPU), _returned(_hashed)),
    Kind(
        "memory",
        _returning("[held[:len(nonce)].decode(), len(held)]", before=_MEMORY),
        _returned(lambda nonce: [nonce, MEMORY_MB * 1_000_000 // len(nonce) * len(nonce)]),
    ),
    Kind("tmp", _returning("[before, text]", "os", before=_TMP), _returned(lambda nonce: [[], nonce * 1000])),
    Kind("large", _returning(f"nonce * ({LARGE_BYTES} // len(nonce))"), _returned(lambda nonce: nonce * (LARGE_BYTES // len(nonce)))),
    Kind("logging", _returning("nonce", before=_LOG), _logged, query="?logType=Tail"),
    Kind("raising", _source("raise ValueError(nonce)"), _failed((502, 430), tells_nonce=True)),
    Kind("exiting", _source("os._exit(3)", "os"), _failed((502, 439), tells_nonce=False), weight=2),
    Kind("late", _source("time.sleep(60)", "time"), _failed((504, 433), tells_nonce=False), weight=1, configuration={"timeout": 1}),
    Kind("greedy", _source('held = b"x" * 400000000\nreturn len(held)'), _failed((502, 434), tells_nonce=False), weight=1),
)
