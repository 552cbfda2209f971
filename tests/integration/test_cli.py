"""`hearth keys`, `events`, `trigger` and a stdout that takes nothing, as a user types them, against a running instance."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.instance import HEARTH, Instance, leaving_nothing, wait_until
from tests.integration.scf import Client

pytestmark = [pytest.mark.requires("root", "user", "memcg", "pids"), pytest.mark.shares_host]

ECHO = "def main_handler(event, context):\n    return event\n"
FAILS = "def main_handler(event, context):\n    raise ValueError('no')\n"


@pytest.fixture(scope="module")
def hearth(start: Callable[..., Instance]) -> Iterator[Instance]:
    with leaving_nothing(start(event_retry_seconds=0.3)) as instance:
        yield instance


class Shell:
    """`good("ls")` is what it printed, `bad(2, "ls")` the line on stderr that says why not."""

    def __init__(self, hearth: Instance) -> None:
        self._environment = hearth.environment

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        given = {"stdout": subprocess.PIPE, **options}
        return subprocess.run(
            [str(HEARTH), *arguments], env=self._environment, stderr=subprocess.PIPE, text=True, timeout=60, check=False, **given
        )

    def good(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done
        return str(done.stdout)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.good(*arguments, "--json"))

    def bad(self, status: int, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stdout) == (status, ""), done
        assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 4
        return str(done.stderr)


@pytest.fixture(scope="module")
def shell(hearth: Instance, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    made = Shell(hearth)
    folder = tmp_path_factory.mktemp("code")
    for name, code in (("echo", ECHO), ("fails", FAILS)):
        (folder / f"{name}.py").write_text(code)
        made.good("deploy", name, str(folder / f"{name}.py"))
    return made


def test_deploy_changes_code_and_configuration_at_once(hearth: Instance, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "once.py").write_text(ECHO)
    first = shell.json("deploy", "once", str(tmp_path / "once.py"))
    (tmp_path / "once.py").write_text(ECHO.replace("event\n", "2\n"))
    second = shell.json("deploy", "once", str(tmp_path / "once.py"), "--memory", "256", "--env", "A=ü")
    assert (first["generation"], second["generation"], second["memory"], second["environment"]) == (1, 2, 256, {"A": "ü"})
    assert shell.good("invoke", "once") == "2\n"
    assert "memory" in shell.bad(2, "deploy", "once", str(tmp_path / "once.py"), "--memory", "5")
    assert shell.json("describe", "once")["generation"] == 2


# keys -----------------------------------------------------------------------------------------------------------------------


def test_a_key_is_made_used_listed_and_revoked(hearth: Instance, shell: Shell) -> None:
    pair = shell.json("keys", "create", "--scope", "read", "--namespace", "default", "--description", "größe")
    assert (pair["scope"], pair["namespace"], pair["description"]) == ("read", "default", "größe")
    scf = Client(hearth, pair)
    assert scf.call("ListFunctions")["TotalCount"] >= 2
    assert scf.refused("DeleteFunction", FunctionName="echo") == "UnauthorizedOperation"
    listed = {row["secret_id"]: row for row in shell.json("keys", "ls")}
    assert listed[pair["secret_id"]]["scope"] == "read" and pair["secret_key"] not in json.dumps(listed)
    table = shell.good("keys", "ls")
    assert pair["secret_id"] in table and pair["secret_key"] not in table and "größe" in table
    printed = shell.good("keys", "create")
    other = dict(line.split(maxsplit=1) for line in printed.splitlines() if len(line.split()) > 1)
    assert Client(hearth, other).call("ListFunctions")["TotalCount"] >= 2
    done = shell.run("keys", "revoke", pair["secret_id"], other["secret_id"])
    assert (done.returncode, done.stdout.count("\n") + done.stderr.count("\n")) == (0, 2)
    assert scf.refused("ListFunctions") == "AuthFailure.SecretIdNotFound"


def test_a_wrong_wish_for_a_key_is_one_line(shell: Shell) -> None:
    assert "everything" in shell.bad(2, "keys", "create", "--scope", "everything")
    assert "AKIDnobody" in shell.bad(2, "keys", "revoke", "AKIDnobody")
    assert "../x" in shell.bad(2, "keys", "revoke", "../x")
    assert "SECRET_ID" in shell.bad(2, "keys", "revoke")
    assert "1001" in shell.bad(2, "keys", "create", "--description", "x" * 1001)


# events ---------------------------------------------------------------------------------------------------------------------


def test_an_event_is_listed_shown_and_waited_for(shell: Shell) -> None:
    request_id = shell.good("invoke", "echo", "-d", '{"a": "ü"}', "--async").strip()
    record = shell.json("events", "show", request_id, "--wait", "30")
    assert (record["state"], record["status"], json.loads(record["result"]) if isinstance(record["result"], str) else record["result"]) == (
        "succeeded",
        200,
        {"a": "ü"},
    )
    assert request_id in [row["request_id"] for row in shell.json("events", "ls", "echo", "--state", "succeeded")]
    assert request_id in shell.good("events", "ls") and "succeeded" in shell.good("events", "show", request_id)
    assert shell.bad(2, "events", "show", "nobody") and shell.bad(2, "events", "cancel", request_id, "nobody")


def test_dead_letters_are_configured_listed_resent_and_purged(hearth: Instance, shell: Shell) -> None:
    config = shell.json("events", "config", "fails", "--retries", "0", "--ttl", "60", "--dead-letter", "file:lost")
    assert config == {"retries": 0, "ttl": 60, "dead_letter": {"type": "file", "target": "lost"}}
    assert shell.json("events", "config", "fails") == config and "lost" in shell.good("events", "config", "fails")
    request_id = shell.good("invoke", "fails", "-d", "[1]", "--async").strip()
    assert shell.json("events", "show", request_id, "--wait", "30")["state"] == "failed"
    [letter] = shell.json("events", "dead", "ls", "fails")
    assert letter["request_id"] == request_id and "ValueError" in json.dumps(letter["error"])
    assert json.loads(shell.json("events", "dead", "show", request_id)["event"]) == [1]
    again = shell.good("events", "dead", "resend", request_id).strip()
    assert shell.json("events", "show", again, "--wait", "30")["caused_by"] == request_id
    assert shell.good("events", "dead", "purge", again) == "purged 1\n"
    assert shell.run("events", "dead", "ls", "fails").stderr == "no dead letters\n"
    assert shell.json("events", "dead", "ls", "fails") == []
    for wrong in (("--dead-letter", "kafka:x"), ("--dead-letter", "url:ftp://x"), ("--dead-letter", "function:fails"), ("--ttl", "1")):
        assert shell.bad(2, "events", "config", "fails", *wrong)
    assert shell.bad(2, "events", "dead", "purge") and shell.bad(2, "events", "dead", "show", again)
    assert shell.bad(2, "events", "config", "nobody") and shell.bad(2, "events", "dead", "resend", "nobody")


# trigger --------------------------------------------------------------------------------------------------------------------


def test_each_kind_of_trigger_is_added_listed_rested_and_removed(hearth: Instance, shell: Shell) -> None:
    assert "added timer to echo, next at " in shell.good("trigger", "add", "echo", "--type", "timer", "--cron", "0 0 8 * * MON-FRI *")
    soon = shell.json("trigger", "add", "echo", "tick", "--cron", "* * * * * * *", "--argument", "größe")
    assert (soon["type"], soon["name"], soon["config"]["argument"]) == ("timer", "tick", "größe")
    wait_until(lambda: any(row["trigger"] == "tick" for row in shell.json("events", "ls", "echo")), "the timer", 30)
    shell.good("trigger", "disable", "echo", "tick")
    url = shell.good("trigger", "add", "echo", "--type", "http").splitlines()[-1]
    with httpx.Client(trust_env=False) as client:
        assert client.post(url, content=b"body").json()["body"] == "body"
        shell.good("trigger", "disable", "echo", "http")
        assert client.get(url).status_code == 403
    rule = '{"bucket": "photos-1250000000", "event": "cos:ObjectCreated:*", "filter": {"Prefix": "in/"}}'
    assert shell.json("trigger", "add", "echo", "arrived", "--type", "cos", "--config", rule)["config"]["bucket"] == "photos-1250000000"
    rows = {row["name"]: row for row in shell.json("trigger", "ls", "echo")}
    assert rows.keys() == {"timer", "tick", "http", "arrived"} and not rows["tick"]["enabled"] and not rows["http"]["enabled"]
    table = shell.good("trigger", "ls", "echo")
    assert all(name in table for name in rows) and url in table
    shell.good("trigger", "enable", "echo", "http")
    assert shell.good("trigger", "rm", "echo", *rows).count("removed") == 4
    assert shell.run("trigger", "ls", "echo").stderr == "no triggers\n"


WRONG: list[tuple[tuple[str, ...], str]] = [
    ((), "a timer needs --cron"),
    (("--type", "timer"), "a timer needs --cron"),
    (("--cron", "every day"), "every day"),
    (("--cron", "0 0 8 * * * *", "--zone", "Mars/Olympus"), "Mars/Olympus"),
    (("--cron", "0 0 8 * * * *", "--type", "http"), "belongs to a timer"),
    (("--cron", "0 0 8 * * * *", "--auth", "none"), "--type http"),
    (("--type", "cos"), "--config"),
    (("--config", "{}"), "--type"),
    (("--type", "cos", "--config", "{"), "not JSON"),
    (("--type", "cos", "--config", "[]"), "object"),
    (("--type", "cos", "--config", "{}"), "bucket"),
    (("--type", "carrier-pigeon", "--config", "{}"), "carrier-pigeon"),
    (("--type", "http", "--auth", "maybe"), "maybe"),
]


def test_a_wrong_trigger_is_told_in_a_line(shell: Shell) -> None:
    for arguments, words in WRONG:
        assert words in shell.bad(2, "trigger", "add", "fails", *arguments), arguments
    assert shell.json("trigger", "ls", "fails") == []


def test_a_trigger_of_nobody(shell: Shell) -> None:
    for command in (("add", "nobody", "x", "--cron", "0 0 8 * * * *"), ("ls", "nobody"), ("rm", "echo", "x"), ("enable", "echo", "x")):
        assert shell.bad(2, "trigger", *command)


# stdout ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        ("--version",),
        ("ls",),
        ("ls", "--json"),
        ("describe", "echo"),
        ("invoke", "echo"),
        ("invoke", "echo", "--json"),
        ("invoke", "echo", "--async"),
        ("logs", "echo"),
        ("keys", "create"),
        ("events", "config", "echo"),
        ("token",),
        ("usage",),
    ],
)
def test_a_stdout_that_takes_nothing_is_a_line_and_status_1(shell: Shell, command: tuple[str, ...]) -> None:
    if command[0] in ("usage", "logs"):  # which say on stderr that there is nothing
        shell.run("invoke", "echo")
        wait_until(lambda: shell.run(*command).stdout, "the call is counted")
    with open("/dev/full", "w") as full:
        done = shell.run(*command, stdout=full)
    assert (done.returncode, done.stderr) == (1, "hearth: cannot write to stdout: No space left on device\n")


def test_a_reader_that_has_gone_is_no_news(shell: Shell) -> None:
    for command in (("invoke", "echo"), ("ls",), ("--help",)):
        process = subprocess.Popen(["true"], stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.wait(10)
        with process.stdin as gone:
            done = shell.run(*command, stdout=gone)
        assert (done.returncode, done.stderr) == (1, ""), command
