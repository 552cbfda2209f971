"""`python -m tests.soak`: a private instance under load, for minutes or for a number of kills. `scripts/soak` is how people start it.

Exit status: 0 every answer was right (or an honest error of a kill) and nothing was left or grew; 1 otherwise; 2 wrong usage.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tests.integration.instance import ROOT, Instance
from tests.soak import after
from tests.soak.figures import Watch
from tests.soak.kills import Readiness, kill_under_load
from tests.soak.load import Load

SECONDS_A_KILL = 30.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(min=0.5), default=10, show_default=True, help="How long the load runs.")
@click.option("--kills", type=click.IntRange(min=1), help="Instead: kill this many processes of ours, at random moments.")
@click.option("--callers", type=click.IntRange(1, 64), default=6, show_default=True, help="Calls at the same time.")
@click.option("--seed", type=int, help="Of a run to repeat.  [default: a new one]")
def main(minutes: float, kills: int | None, callers: int, seed: int | None) -> None:
    """Run mixed functions, failing ones among them, check every answer, and see that nothing grows or is left."""
    seed = secrets.randbits(32) if seed is None else seed
    print(f"seed {seed}", flush=True)
    with private_instance() as hearth:
        try:
            if kills:
                storm(hearth, kills, callers, seed)
            else:
                soak(hearth, minutes * 60, callers, seed)
            after.assert_sound(hearth)
            after.assert_gone(hearth)
        except AssertionError as error:
            sys.exit(f"failed, seed {seed}: {error}\nthe log is {keep(hearth.log)}")
    print("nothing is left, doctor is content")


def soak(hearth: Instance, seconds: float, callers: int, seed: int) -> None:
    with Load(hearth, seed=seed, callers=callers) as load:
        watch = Watch(hearth, load.tally)
        watch.run(seconds, say=lambda line: print(line, flush=True))
    load.tally.judge(lambda failure: False)
    print(watch.describe())
    assert load.tally.wrong == [], load.tally.wrong[:10]
    assert watch.grown() == [], watch.grown()


def storm(hearth: Instance, kills: int, callers: int, seed: int) -> None:
    with Load(hearth, seed=seed, callers=callers) as load, Readiness(hearth) as readiness:
        load.wait_for_answers(20)
        done = kill_under_load(hearth, load, kills=kills, seed=seed, within_seconds=kills * SECONDS_A_KILL, say=print_now)
        load.wait_for_answers(20)
    load.tally.judge(done.excuse)
    print(done.describe(load.tally))
    assert load.tally.wrong == [], load.tally.wrong[:10]
    assert len(done.kills) == kills, f"only {len(done.kills)} kills"
    assert not (calm := readiness.refusals_in_calm(done)), f"readiness said no in calm: {calm[:10]}"
    assert not (hid := readiness.hid(done)), f"readiness hid the runtime's end: {hid}"


def print_now(line: str) -> None:
    print(line, flush=True)


@contextmanager
def private_instance() -> Iterator[Instance]:
    """A started instance with an image of its own, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hearth-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        build = [sys.executable, "-m", "sandbox.admin", "image", "build", "host"]
        subprocess.run(build, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HEARTH_HOME": name}, cwd=ROOT, check=True, capture_output=True)
        hearth = Instance(folder, folder / "images" / "host", restart_seconds=0.5)
        try:
            yield hearth.start()
        finally:
            hearth.close()


def keep(log: Path) -> Path:
    """A copy that outlives the run."""
    kept = Path(tempfile.mkstemp(prefix="hearth-soak-", suffix=".log")[1])
    shutil.copyfile(log, kept)
    return kept


if __name__ == "__main__":
    main(prog_name="scripts/soak")
