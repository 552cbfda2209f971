"""Warm workers, concurrency, changes under running calls, freezing and keep-alive."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.integration.instance import Answer, Instance, wait_until

pytestmark = [pytest.mark.requires("root", "user", "memcg", "freezer"), pytest.mark.shares_host]

SLEEPER = """
    import os, time
    calls = []
    def main_handler(event, context):
        calls.append(1)
        time.sleep(event.get("seconds", 0))
        return {"calls": len(calls), "marks": sorted(os.listdir("/tmp"))}
"""


def answers(text: str) -> str:
    return f"import time\ndef main_handler(event, context):\n    time.sleep(event.get('seconds', 0))\n    return {text!r}\n"


def leased(hearth: Instance, name: str) -> list[dict[str, Any]]:
    return [row for row in hearth.sandboxes(name) if row["state"] == "leased"]


def running(hearth: Instance, name: str, count: int = 1) -> None:
    wait_until(lambda: len(leased(hearth, name)) == count, f"{count} calls run")


# Reuse ----------------------------------------------------------------------------------------------------------------------


def test_module_state_and_tmp_are_kept_between_calls(hearth: Instance) -> None:
    name = hearth.deploy("""
        import os
        calls = []
        def main_handler(event, context):
            calls.append(event["n"])
            with open("/tmp/%d" % event["n"], "w") as file:
                file.write("kept")
            return calls, sorted(os.listdir("/tmp")), os.getpid()
    """)
    first, second = hearth.call(name, {"n": 1}), hearth.call(name, {"n": 2})
    assert (first.start, second.start) == ("cold", "warm")
    assert first.ok()[:2] == [[1], ["1"]]
    assert second.ok()[:2] == [[1, 2], ["1", "2"]]
    assert first.body[2] == second.body[2]
    records = [hearth.record(first), hearth.record(second)]
    assert [record["start"] for record in records] == ["cold", "warm"]
    assert records[0]["why_cold"] and records[1]["why_cold"] is None
    assert records[0]["attempts"][0]["sandbox"] == records[1]["attempts"][0]["sandbox"]
    assert [(row["calls"], row["state"] in ("idle", "frozen")) for row in hearth.sandboxes(name)] == [(2, True)]


def test_functions_never_share_a_worker(hearth: Instance) -> None:
    names = [hearth.deploy(SLEEPER) for _ in range(3)]
    for expected in (1, 2):
        assert [hearth.call(name, {}).ok()["calls"] for name in names] == [expected] * 3
    rows = [row for name in names for row in hearth.sandboxes(name)]
    assert len(rows) == len({row["pid"] for row in rows}) == len({row["uid"] for row in rows}) == 3


def test_a_deleted_function_s_name_brings_new_code_only(hearth: Instance) -> None:
    name = "phoenix"
    for round_ in range(3):
        hearth.deploy(answers(f"life {round_}"), name=name)
        assert [hearth.call(name, {}).ok() for _ in range(4)] == [f"life {round_}"] * 4
        hearth.delete(name)
        assert hearth.call(name, {}).status == 404
        wait_until(lambda: hearth.sandboxes(name) == [], "its workers are gone")


def test_deletion_during_a_call_lets_it_finish_and_takes_its_worker(hearth: Instance) -> None:
    name = hearth.deploy(answers("last words"))
    call = hearth.call_soon(name, {"seconds": 0.5})
    running(hearth, name)
    hearth.delete(name)
    assert call.result().ok() == "last words"
    wait_until(lambda: hearth.sandboxes(name) == [], "its worker is gone")


def test_update_during_a_call_finishes_on_the_old_code_and_goes_on_with_the_new(hearth: Instance) -> None:
    name = hearth.deploy(answers("old"))
    hearth.call(name, {}).ok()
    old = hearth.call_soon(name, {"seconds": 0.6})
    running(hearth, name)
    hearth.update(name, answers("new"))
    new = hearth.call(name, {})
    assert (new.ok(), new.start) == ("new", "cold")
    assert not old.done()
    assert old.result().ok() == "old"
    assert {hearth.call(name, {}).ok() for _ in range(4)} == {"new"}
    wait_until(lambda: len(hearth.sandboxes(name)) == 1, "the old worker is gone")


def test_nothing_is_lost_while_code_changes_under_a_stream_of_calls(hearth: Instance) -> None:
    name = hearth.deploy(answers("0"))
    flow: list[Future[Answer]] = []
    seen_after: list[str] = []
    for version in range(1, 6):
        flow += [hearth.call_soon(name, {"seconds": 0.02}) for _ in range(8)]
        hearth.update(name, answers(str(version)))
        after = [hearth.call(name, {}).ok() for _ in range(4)]
        assert after == [str(version)] * 4  # both HTTP workers know
        seen_after += after
    assert {call.result().outcome for call in flow} == {(200, 200)}


def test_a_change_of_configuration_is_seen_by_the_next_call(hearth: Instance) -> None:
    name = hearth.deploy(
        "import os\ndef main_handler(event, context):\n    return os.environ.get('COLOUR'), context['memory_limit_in_mb']\n"
    )
    assert hearth.call(name, {}).ok() == [None, 128]
    assert hearth.request("PATCH", f"/v1/functions/{name}", json={"environment": {"COLOUR": "red"}, "memory": 256}).status == 200
    assert hearth.call(name, {}).ok() == ["red", 256]


# Concurrency ----------------------------------------------------------------------------------------------------------------


def test_of_21_simultaneous_calls_20_answer_and_one_is_refused_without_a_trace(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPER, concurrency=20, timeout=20)
    throttled_before = hearth.counters()["throttled"]
    calls = [hearth.call_soon(name, {"seconds": 2}) for _ in range(21)]
    done = [call.result() for call in calls]
    refused = [answer for answer in done if answer.status != 200]
    assert sorted(answer.status for answer in done) == [200] * 20 + [429]
    (one,) = refused
    assert one.body["scf_status"] == 432
    assert int(one.headers["retry-after"]) >= 1
    assert one.seconds < 1
    record = hearth.record(one)
    assert (record["state"], record["status"], record["start"], record["started_at"]) == ("failed", 432, None, None)
    assert (record["attempts"], record["log"], record["run_ms"], record["billed_ms"]) == ([], "", 0, 0)
    assert hearth.counters()["throttled"] == throttled_before + 1
    assert len(hearth.sandboxes(name)) == 20
    hearth.delete(name)


def test_ten_first_calls_at_once_start_at_most_ten_workers(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPER)
    done = [call.result() for call in [hearth.call_soon(name, {"seconds": 0.2}) for _ in range(10)]]
    assert [answer.outcome for answer in done] == [(200, 200)] * 10
    workers = {hearth.record(answer)["attempts"][0]["sandbox"] for answer in done}
    assert len(hearth.sandboxes(name)) == len(workers) <= 10
    hearth.delete(name)


def test_a_short_call_does_not_wait_for_a_long_one(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPER, concurrency=2, timeout=20)
    for call in [hearth.call_soon(name, {"seconds": 0.3}) for _ in range(2)]:
        call.result().ok()
    long = hearth.call_soon(name, {"seconds": 1.5})
    running(hearth, name)
    short = hearth.call(name, {})
    assert short.start == "warm"
    assert short.seconds < 0.5
    assert not long.done()
    long.result().ok()


def test_a_flood_beyond_the_limit_gets_429_only_and_the_limit_is_free_again_afterwards(hearth: Instance) -> None:
    name = hearth.deploy(SLEEPER, concurrency=3)
    done = [call.result() for call in [hearth.call_soon(name, {"seconds": 0.3}) for _ in range(30)]]
    assert {answer.status for answer in done} == {200, 429}
    again = [call.result() for call in [hearth.call_soon(name, {"seconds": 0.2}) for _ in range(3)]]
    assert [answer.status for answer in again] == [200] * 3
    assert len(hearth.sandboxes(name)) <= 3


def test_failures_give_their_place_back(hearth: Instance) -> None:
    name = hearth.deploy("import os\ndef main_handler(event, context):\n    os._exit(1)\n", concurrency=1)
    assert [hearth.call(name, {}).scf for _ in range(6)] == [439] * 6
    broken = hearth.deploy("1/0\n", concurrency=1)
    assert [hearth.call(broken, {}).scf for _ in range(6)] == [443] * 6


# Idle workers ---------------------------------------------------------------------------------------------------------------


def test_an_idle_worker_is_frozen_and_thawed_and_later_gone(start: Callable[..., Instance]) -> None:
    hearth = start(freeze_after_seconds=0.2, keep_alive_seconds=2)
    try:
        name = hearth.deploy("""
            import threading, time
            ticks = [0]
            def tick():
                while True:
                    ticks[0] += 1
            threading.Thread(target=tick, daemon=True).start()
            def main_handler(event, context):
                return ticks[0], time.monotonic()
        """)
        hearth.call(name, {}).ok()
        wait_until(lambda: [row["state"] for row in hearth.sandboxes(name)] == ["frozen"], "it is frozen")
        (row,) = hearth.sandboxes(name)
        used = cpu_ticks(row["pid"])
        assert used > 5  # it was busy until then, and would be now
        time.sleep(0.3)  # the span that is measured
        assert cpu_ticks(row["pid"]) == used
        assert hearth.sandboxes(name)[0]["state"] == "frozen"
        after = hearth.call(name, {})
        assert after.start == "warm"
        assert after.ok()[0] > 0
        began = time.monotonic()
        wait_until(lambda: hearth.sandboxes(name) == [], "keep-alive is over")
        assert 1.5 < time.monotonic() - began < 4
        assert hearth.call(name, {}).start == "cold"
    finally:
        hearth.close()


def cpu_ticks(init: int) -> int:
    """CPU time of a sandbox's worker, in clock ticks, by its PID 1."""
    total = 0
    with open(f"/proc/{init}/task/{init}/children") as file:
        for pid in file.read().split():
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total


# An interpreter of its own ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [{"PYTHONHASHSEED": "7"}, {"LD_LIBRARY_PATH": "/var/user/lib"}])
def test_a_function_whose_environment_needs_a_fresh_interpreter_works(hearth: Instance, environment: dict[str, str]) -> None:
    name = hearth.deploy(
        """
        import os, time
        calls = []
        def main_handler(event, context):
            calls.append(1)
            time.sleep(event.get("seconds", 0))
            if event.get("exit"):
                os._exit(1)
            if event.get("hog"):
                hog = b"x" * (300 << 20)
            status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
            return {"calls": len(calls), "hash": hash("a"), "caps": status["CapEff"].strip(), "cwd": os.getcwd(),
                    "environ": {k: os.environ.get(k) for k in event.get("keys", [])}, "pid": os.getpid()}
        """,
        environment=environment,
        timeout=1,
    )
    cold, warm = hearth.call(name, {"keys": list(environment)}), hearth.call(name, {})
    assert (cold.start, warm.start) == ("cold", "warm")
    assert (cold.ok()["calls"], warm.ok()["calls"]) == (1, 2)
    assert cold.body["environ"] == environment
    assert (cold.body["caps"], cold.body["cwd"], cold.body["pid"]) == ("0" * 16, "/var/user", 2)
    assert cold.body["hash"] == warm.body["hash"]
    for event, scf in (({"exit": 1}, 439), ({"seconds": 9}, 433), ({"hog": 1}, 434)):
        answer = hearth.call(name, event)
        assert answer.scf == scf, answer.content
        assert hearth.sandboxes(name) == []
    again = hearth.call(name, {})
    assert again.ok()["calls"] == 1
    if "PYTHONHASHSEED" in environment:
        assert again.body["hash"] == cold.body["hash"]


@pytest.mark.parametrize(
    ("code", "scf"), [("x = 1\n", 437), ("1/0\n", 443), ("import sys\nsys.exit(3)\n", None), ("import os\nos._exit(3)\n", 439)]
)
def test_code_that_does_not_load_in_a_fresh_interpreter(hearth: Instance, code: str, scf: int | None) -> None:
    fresh = hearth.call(hearth.deploy(code, environment={"PYTHONHASHSEED": "7"}), {})
    forked = hearth.call(hearth.deploy(code), {})
    assert fresh.outcome == forked.outcome
    assert fresh.status == 502
    assert scf in (None, fresh.scf)


# Images ---------------------------------------------------------------------------------------------------------------------


def add_image(hearth: Instance, name: str, runtime: str) -> Path:
    """A second image with the files of `host` and another runtime's name."""
    images = hearth.home / "images"
    shutil.copytree(images / "host", images / f".tmp-{name}", symlinks=True, copy_function=os.link)
    manifest = images / f".tmp-{name}/manifest.json"
    data = json.loads(manifest.read_text())
    (interpreter,) = data["runtimes"].values()
    manifest.unlink()  # it shares its inode with host's
    manifest.write_text(json.dumps({**data, "name": name, "runtimes": {runtime: interpreter}, "preloads": {}}))
    return (images / f".tmp-{name}").rename(images / name)


def test_what_was_prepared_of_a_removed_image_goes_and_its_workers_stay(hearth: Instance) -> None:
    def of_the_image() -> list[str]:
        return [row["state"] for row in hearth.request("GET", "/v1/sandboxes").body["sandboxes"] if row["image"] == "extra"]

    path = add_image(hearth, "extra", "Python3.2")
    name = hearth.deploy(SLEEPER, runtime="Python3.2")
    hearth.call(name).ok()
    wait_until(lambda: of_the_image().count("prepared") >= 4, "sandboxes are prepared")
    path.rename(path.with_name(".old-extra-0"))
    wait_until(lambda: "prepared" not in of_the_image(), "what was prepared has gone")
    assert hearth.call(name).start == "warm"
    hearth.delete(name)
    wait_until(lambda: of_the_image() == [], "the last one goes with its function")
    shutil.rmtree(path.with_name(".old-extra-0"))
