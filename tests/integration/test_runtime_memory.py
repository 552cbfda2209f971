"""Memory as the governor judges it: a function owns its own limit and its whole /tmp, and not a byte of one for the other."""

from __future__ import annotations

import pytest

from tests.integration.instance import Answer, Instance

pytestmark = [pytest.mark.requires("root", "user", "memcg"), pytest.mark.shares_host]

HUNGRY = """
    import errno, os, time
    MEGABYTE = 1 << 20
    block = os.urandom(MEGABYTE)
    def fill(path, megabytes):
        with open(path, "wb", 0) as file:
            for done in range(megabytes):
                try:
                    file.write(block)
                except OSError as error:
                    return done, errno.errorcode[error.errno]
        return megabytes, None
    def allocate(megabytes):
        hog = bytearray(megabytes * MEGABYTE)
        for page in range(0, len(hog), 4096):
            hog[page] = 1
        return hog
    def main_handler(event, context):
        told = []
        for do, megabytes in event:
            if do == "tmp":
                told.append(fill("/tmp/file", megabytes))
            if do == "shm":
                told.append(fill("/dev/shm/file", megabytes))
            if do == "delete":
                os.unlink("/tmp/file")
            if do == "own":
                hog = allocate(megabytes)
                told.append(len(hog) // MEGABYTE)
            if do == "hold":
                time.sleep(megabytes)
            if do == "drop":
                del hog
            if do == "inodes":
                made = 0
                try:
                    for made in range(megabytes):
                        open("/tmp/%d" % made, "w").close()
                except OSError as error:
                    told.append([made, errno.errorcode[error.errno]])
        return told
"""


@pytest.fixture
def name(hearth: Instance) -> str:
    return hearth.deploy(HUNGRY, memory=128, timeout=20)


def assert_over_the_limit(hearth: Instance, name: str, answer: Answer) -> None:
    assert answer.outcome == (502, 434), answer.content
    assert answer.body["errorMessage"] == "Task memory exceeded 128 MB"
    assert hearth.sandboxes(name) == []
    assert hearth.call(name, [["own", 1]]).ok() == [1]


def test_a_128_mb_function_fills_its_512_mb_tmp_and_lives(hearth: Instance, name: str) -> None:
    answer = hearth.call(name, [["tmp", 600]])
    assert answer.ok() == [[512, "ENOSPC"]]
    assert hearth.record(answer)["memory_bytes"] < 128 << 20
    (row,) = hearth.sandboxes(name)
    assert row["tmp_bytes"] == 512 << 20
    warm = hearth.call(name, [["own", 60]])
    assert (warm.start, warm.ok()) == ("warm", [60])
    hearth.delete(name)


def test_tmp_is_as_large_as_the_function_says(hearth: Instance) -> None:
    for size in (16, 700):
        assert hearth.call(hearth.deploy(HUNGRY, tmp=size, timeout=20), [["tmp", 800]]).ok() == [[size, "ENOSPC"]]


@pytest.mark.parametrize(
    "doings",
    [
        [["own", 300]],
        [["tmp", 400], ["own", 160]],
        [["tmp", 400], ["delete", 0], ["own", 160]],
        [["tmp", 200], ["delete", 0], ["tmp", 100], ["own", 160]],
    ],
    ids=["at once", "after filling", "after filling and deleting", "after filling twice"],
)
def test_own_memory_beyond_the_limit_is_434_whatever_is_in_tmp(hearth: Instance, name: str, doings: list[list[object]]) -> None:
    assert_over_the_limit(hearth, name, hearth.call(name, doings))


def test_filling_and_deleting_in_one_call_does_not_widen_the_next(hearth: Instance, name: str) -> None:
    hearth.call(name, [["tmp", 400], ["delete", 0]]).ok()
    answer = hearth.call(name, [["own", 160]])
    assert answer.start == "warm"
    assert_over_the_limit(hearth, name, answer)


def test_files_of_one_call_do_not_count_as_memory_of_the_next(hearth: Instance, name: str) -> None:
    hearth.call(name, [["tmp", 400]]).ok()
    answer = hearth.call(name, [["own", 80]])
    assert (answer.start, answer.ok()) == ("warm", [80])
    assert 80 << 20 < hearth.record(answer)["memory_bytes"] < 128 << 20


def test_a_short_call_is_not_charged_with_the_files_that_are_there(hearth: Instance, name: str) -> None:
    hearth.call(name, [["tmp", 300]]).ok()
    answer = hearth.call(name, [])
    assert (answer.start, answer.ok()) == ("warm", [])
    assert int(answer.headers["x-scf-memory-bytes"]) < 40 << 20


def test_a_call_too_short_to_be_watched_is_not_charged_with_its_files(hearth: Instance, name: str) -> None:
    hearth.call(name, []).ok()
    answer = hearth.call(name, [["tmp", 12]])
    assert (answer.start, answer.ok()) == ("warm", [[12, None]])
    assert int(answer.headers["x-scf-memory-bytes"]) < 11 << 20


def test_two_hungry_calls_at_once_each_get_their_whole_limit(hearth: Instance, name: str) -> None:
    calls = [hearth.call_soon(name, [["own", 100], ["hold", 1]]) for _ in range(2)]
    assert [call.result().ok() for call in calls] == [[100]] * 2


def test_dev_shm_is_own_memory(hearth: Instance, name: str) -> None:
    assert hearth.call(name, [["shm", 100]]).ok() == [[64, "ENOSPC"]]
    assert_over_the_limit(hearth, name, hearth.call(name, [["own", 90], ["hold", 1]]))


def test_files_in_tmp_are_counted(hearth: Instance, name: str) -> None:
    ((made, error),) = hearth.call(name, [["inodes", 70_000]]).ok()
    assert error == "ENOSPC"
    assert 65_000 < made < 65_536


def test_the_memory_of_a_call_is_told(hearth: Instance, name: str) -> None:
    idle = hearth.call(name, [["own", 1], ["hold", 0.1]])
    busy = hearth.call(name, [["own", 70], ["hold", 0.1], ["drop", 0]])
    idle.ok(), busy.ok()
    told = int(busy.headers["x-scf-memory-bytes"])
    assert told == hearth.record(busy)["memory_bytes"]
    assert 70 << 20 < told < 100 << 20
    assert int(idle.headers["x-scf-memory-bytes"]) < 40 << 20
