"""Watched directories: real inotify on real files, the index on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import json
import os
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert, update
from sqlalchemy import select as query

from sandbox.settings import Settings
from server.errors import BadRequest, QueueFull
from server.events.queue import EventQueue
from server.records.model import Filter
from server.store.engine import writing
from server.store.tables import events, triggers, watched_files, watches
from server.triggers.directories import DirectoryKind
from server.triggers.model import Trigger
from server.watching.index import LeaseLost, WatchIndex
from server.watching.paths import opened
from server.watching.tree import Overflow, RootGone
from server.watching.watch import Watch
from tests.postgres import database

QUIET = 0.3
PATIENCE = 20.0


@pytest.fixture
def settings(either_url: str, tmp_path: Path) -> Settings:
    (tmp_path / "in").mkdir()
    return Settings(home=str(tmp_path / "home"), database_url=either_url, watch_dirs=str(tmp_path / "in"))


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with database(settings) as engine:
        yield engine


class World:
    """A directory with a trigger for everything that comes and one for what goes, and the watch of it."""

    def __init__(self, engine: Engine, settings: Settings, path: Path) -> None:
        self.engine, self.settings, self.path = engine, settings, path
        self.queue = EventQueue(engine, settings)
        self.index = WatchIndex(engine, settings, self.queue)
        self.watch: Watch | None = None
        bind(engine, settings, "made", {"path": str(path)})
        bind(engine, settings, "gone", {"path": str(path), "event": "cos:ObjectRemove:*"})

    def start(self, owner: str = "me") -> Watch:
        (row,) = self.index.wanted()
        now = time.time()
        taken = self.index.acquire(row.watch_id, owner, now=now, lease_until=now + 30)
        assert taken is not None
        opening = partial(opened, self.settings.watched_paths, str(self.path))
        self.watch = Watch(taken, owner, self.index, opening=opening, lease_seconds=30, quiet_seconds=QUIET)
        self.watch.start()
        return self.watch

    def die(self) -> None:
        """Like a process: nothing is told to the database."""
        assert self.watch is not None
        self.watch.close()
        self.index.release("me")

    def told(self) -> list[tuple[str, str]]:
        found = reversed(self.queue.search(Filter(), 100_000))
        records = [json.loads(event.payload)["Records"][0] for event in found]
        return [(one["event"]["eventName"].split(":")[1][6:], one["cos"]["cosObject"]["key"][len(str(self.path)) + 1 :]) for one in records]

    def settle(self) -> list[tuple[str, str]]:
        """Everything told once nothing is left to look at."""
        assert self.watch is not None
        watch, deadline = self.watch, time.monotonic() + PATIENCE
        while True:
            watch.step()
            if not select.select([watch.fileno()], [], [], watch.wait_seconds or 0)[0] and watch.wait_seconds is None:
                return self.told()
            assert time.monotonic() < deadline


def bind(engine: Engine, settings: Settings, name: str, config: dict[str, Any], *, function: str = "f") -> None:
    kind = DirectoryKind(settings)
    checked = kind.checked(config)
    row = Trigger(f"id-{name}", f"of-{function}", "default", function, name, "directory", checked, "$LATEST", True, "", None, 0.0, 0.0)
    with writing(engine) as connection:
        kind.admit(connection, checked, row.trigger_id)
        connection.execute(insert(triggers).values(row.to_row()))


@pytest.fixture
def world(engine: Engine, settings: Settings, tmp_path: Path) -> Iterator[World]:
    world = World(engine, settings, tmp_path / "in")
    yield world
    if world.watch is not None:
        world.watch.close()


def test_files_that_come_change_move_and_go_are_told_each_once(world: World) -> None:
    world.start()
    (world.path / "a b.txt").write_text("one")
    assert world.settle() == [("Created", "a b.txt")]
    (world.path / "a b.txt").write_text("other")
    assert world.settle()[1:] == [("Created", "a b.txt")]
    (world.path / "a b.txt").rename(world.path / "c.txt")
    assert Counter(world.settle()[2:]) == Counter([("Remove", "a b.txt"), ("Created", "c.txt")])
    (world.path / "c.txt").unlink()
    assert world.settle()[4:] == [("Remove", "c.txt")]
    (event, *_) = world.queue.search(Filter(), 1)
    (record,) = json.loads(event.payload)["Records"]
    assert (event.source, event.trigger, record["cos"]["cosBucket"]) == (
        "directory",
        "gone",
        {"region": "local", "name": str(world.path), "appid": ""},
    )
    assert record["cos"]["cosObject"]["url"] == f"file://{world.path}/c.txt" and record["cos"]["cosObject"]["size"] == 5


def test_a_file_that_is_being_written_is_told_when_it_is_closed(world: World) -> None:
    world.start()
    with (world.path / "big").open("wb") as file:
        for _ in range(3):
            file.write(b"x" * 1000)
            file.flush()
            deadline = time.monotonic() + 2 * QUIET
            while (left := deadline - time.monotonic()) > 0:
                select.select([], [], [], min(left, 0.05))
                assert world.watch is not None
                world.watch.step()
            assert world.told() == []
    assert world.settle() == [("Created", "big")]


def test_a_file_that_a_look_finds_while_it_grows_is_told_when_it_is_whole(world: World) -> None:
    with (world.path / "grows").open("wb") as file:
        file.write(b"x")
        file.flush()
        watch = world.start()
        deadline = time.monotonic() + 3 * QUIET
        while time.monotonic() < deadline:
            file.write(b"x")
            file.flush()
            select.select([], [], [], QUIET / 6)  # longer than a time stamp is coarse
            watch.step()
        assert world.told() == []
    assert world.settle() == [("Created", "grows")]


def test_a_file_that_was_opened_and_not_changed_is_no_event(world: World) -> None:
    world.start()
    (world.path / "a").write_text("1")
    world.settle()
    (world.path / "a").open("ab").close()
    assert world.settle() == [("Created", "a")]


def test_directories_that_are_made_or_moved_in_are_watched_with_all_that_is_in_them(world: World, tmp_path: Path) -> None:
    world.start()
    (world.path / "deep" / "er").mkdir(parents=True)
    (world.path / "deep" / "er" / "a").write_text("1")
    assert world.settle() == [("Created", "deep/er/a")]
    outside = tmp_path / "moved"
    (outside / "x").mkdir(parents=True)
    (outside / "x" / "b").write_text("2")
    outside.rename(world.path / "moved")
    assert world.settle()[1:] == [("Created", "moved/x/b")]
    (world.path / "moved" / "x" / "c").write_text("3")
    assert world.settle()[2:] == [("Created", "moved/x/c")]
    (world.path / "moved").rename(outside)
    assert Counter(world.settle()[3:]) == Counter([("Remove", "moved/x/b"), ("Remove", "moved/x/c")])
    (outside / "x" / "d").write_text("nobody watches it any more")
    assert len(world.settle()) == 5


def test_a_hard_link_is_a_file_and_a_symbolic_link_is_not(world: World, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "file").write_text("s")
    world.start()
    (world.path / "soft").symlink_to(secret / "file")
    (world.path / "dir").symlink_to(secret)
    os.link(secret / "file", world.path / "hard")
    (secret / "more").write_text("t")
    assert world.settle() == [("Created", "hard")]


def test_a_name_that_is_no_text_is_told_as_well_as_it_goes(world: World) -> None:
    world.start()
    Path(os.fsdecode(os.fsencode(world.path) + b"/\xff")).write_text("1")
    assert world.settle() == [("Created", "\ufffd")]


def test_what_was_there_before_the_trigger_is_known_and_what_came_after_it_is_told(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "in"
    (path / "old").write_text("1")
    os.utime(path / "old", ns=(1, 1))
    deadline = time.monotonic() + 0.2
    while (left := deadline - time.monotonic()) > 0:
        select.select([], [], [], left)
    world = World(engine, settings, path)
    (path / "new").write_text("2")
    os.utime(path / "new", ns=(2, 2))  # as rsync and cp -p do
    world.start()
    assert world.settle() == [("Created", "new")]
    (path / "old").unlink()
    assert world.settle()[1:] == [("Remove", "old")]
    world.die()


def test_what_happened_while_nobody_watched_is_told_once_and_nothing_else(world: World) -> None:
    world.start()
    for name in ("stays", "goes", "grows"):
        (world.path / name).write_text("1")
    before = len(world.settle())
    world.die()
    (world.path / "goes").unlink()
    (world.path / "grows").write_text("12")
    (world.path / "sub").mkdir()
    for number in range(2000):
        (world.path / "sub" / str(number)).write_text("n")
    world.start()
    expected = Counter([("Remove", "goes"), ("Created", "grows"), *(("Created", f"sub/{number}") for number in range(2000))])
    assert Counter(world.settle()[before:]) == expected
    world.die()
    world.start()
    assert len(world.settle()) == before + 2002


def test_dropped_events_are_made_good_by_a_look_at_everything(world: World) -> None:
    """The kernel's own overflow: nobody reads while more happens than fs.inotify.max_queued_events."""
    world.start()
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    (world.path / "first").write_text("1")
    for number in range(most + 10):  # alternating: the kernel drops what is the same as the last one
        (world.path / ("x", "y")[number % 2]).write_text("")
    (world.path / "last").write_text("2")
    assert world.watch is not None
    with pytest.raises(Overflow):
        world.watch.step()
    world.die()
    world.start()
    assert Counter(world.settle()) == Counter({("Created", name): 1 for name in ("first", "last", "x", "y")})


@pytest.mark.parametrize("away", ["renamed", "replaced", "removed"])
def test_a_directory_that_goes_away_is_no_removal_of_its_files(world: World, tmp_path: Path, away: str) -> None:
    world.start()
    (world.path / "a").write_text("1")
    world.settle()
    if away == "removed":
        (world.path / "a").unlink()
        world.path.rmdir()
    else:
        world.path.rename(tmp_path / "was")
    if away == "replaced":
        world.path.mkdir()
    assert world.watch is not None
    with pytest.raises(RootGone):
        while True:
            world.watch.step()
            world.watch.check()
    world.die()
    with pytest.raises((RootGone, FileNotFoundError)):
        world.start()
    if away != "removed":
        if away == "replaced":
            world.path.rmdir()
        (tmp_path / "was" / "b").write_text("2")
        (tmp_path / "was").rename(world.path)
        world.start()
        assert world.settle() == [("Created", "a"), ("Created", "b")]


def test_who_has_lost_the_lease_writes_nothing(world: World) -> None:
    first = world.start()
    (row,) = world.index.wanted()
    assert world.index.acquire(row.watch_id, "other", now=time.time(), lease_until=time.time() + 30) is None
    with writing(world.engine) as connection:
        connection.execute(update(watches).values(lease_until=0.0))
    second = world.start("other")
    (world.path / "a").write_text("1")
    assert world.settle() == [("Created", "a")]
    world.watch = first
    with pytest.raises(LeaseLost):
        world.settle()
    second.close()
    assert world.told() == [("Created", "a")]


def test_file_and_event_are_one_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start()
    (world.path / "a").write_text("1")

    def full(*_: Any) -> None:
        raise QueueFull("no room")

    monkeypatch.setattr(world.queue, "check_room", full)
    with pytest.raises(QueueFull):
        world.settle()
    with world.engine.connect() as connection:
        assert connection.execute(query(watched_files)).all() == [] == connection.execute(query(events)).all()
    monkeypatch.undo()
    assert world.settle() == [("Created", "a")]


def test_filters_and_disabled_triggers_hold(world: World, settings: Settings) -> None:
    bind(world.engine, settings, "jpg", {"path": str(world.path), "filter": {"Prefix": "in/", "Suffix": ".jpg"}}, function="g")
    with writing(world.engine) as connection:
        connection.execute(update(triggers).where(triggers.c.name == "made").values(enabled=False))
    (world.path / "in").mkdir()
    world.start()
    for name in ("in/a.jpg", "in/a.png", "b.jpg"):
        (world.path / name).write_text("1")
    assert world.settle() == [("Created", "in/a.jpg")]
    with writing(world.engine) as connection:
        connection.execute(update(triggers).values(enabled=True))
    assert len(world.settle()) == 1  # what came meanwhile is known


def test_a_directory_that_no_trigger_names_any_more_is_forgotten(world: World) -> None:
    world.start()
    (world.path / "a").write_text("1")
    world.settle()
    with writing(world.engine) as connection:
        connection.execute(delete(triggers))
    assert world.index.wanted() == []
    with world.engine.connect() as connection:
        assert connection.execute(query(watches)).all() == [] == connection.execute(query(watched_files)).all()


Wrong = Callable[[Path], dict[str, Any]]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda path: {},
        lambda path: {"path": "in"},
        lambda path: {"path": f"{path}/../in"},
        lambda path: {"path": f"{path}/"},
        lambda path: {"path": str(path.parent)},
        lambda path: {"path": f"{path}side"},
        lambda path: {"path": f"{path}/none"},
        lambda path: {"path": f"{path}/file"},
        lambda path: {"path": f"{path}/link"},
        lambda path: {"path": str(path), "event": "cos:ObjectCreated"},
        lambda path: {"path": str(path), "bucket": "b"},
        lambda path: {"path": "/\ud800"},
    ],
)
def test_a_directory_that_may_not_be_watched_is_refused(engine: Engine, settings: Settings, tmp_path: Path, wrong: Wrong) -> None:
    path = tmp_path / "in"
    (path / "file").touch()
    (path / "link").symlink_to("/etc")
    (tmp_path / "inside").mkdir()
    with pytest.raises(BadRequest):
        bind(engine, settings, "t", wrong(path))
    with engine.connect() as connection:
        assert connection.execute(query(watches)).all() == []
