"""`python -m tests.bench [--quick] [--json FILE] [--only ROW …]`: measure every row of DESIGN section 11, print them, write them as JSON.

Exit status: 0 every "must reach first" was reached, 1 one was missed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from tests.bench import churn, cold, events, many, warm
from tests.bench.instance import Home, private_home
from tests.bench.rows import Row, table

GROUPS = ("cold", "beyond", "burst", "warm", "refusal", "events", "churn", "many")


def measure(home: Home, chosen: set[str], *, quick: bool) -> Iterator[Row]:
    """Rows as they come. One life for what is measured with the defaults; the others need settings of their own."""
    if "beyond" in chosen:
        yield cold.beyond_prepared(home, 15 if quick else 60)
    steps: dict[str, Callable[..., list[Row]]] = {
        "cold": lambda instance: [cold.prepared(instance, 20 if quick else 80)],
        "burst": lambda instance: [cold.simultaneous(instance, 5 if quick else 15)],
        "warm": lambda instance: warm.warm(instance, rounds=2 if quick else 5, seconds=3 if quick else 6),
        "refusal": lambda instance: many.refusals(instance, 200 if quick else 1000),
        "events": lambda instance: events.events(instance, seconds=3 if quick else 10, starts=30 if quick else 200),
        "churn": lambda instance: [churn.churn(instance, 300 if quick else 5000)],
    }
    if chosen & steps.keys():
        with home.life() as instance:
            cold.warm_up(instance)
            for name, step in steps.items():
                if name in chosen:
                    yield from step(instance)
    if "many" in chosen:
        with home.life() as instance:
            cold.warm_up(instance)
            yield from many.many(instance, 200 if quick else 500)


def machine() -> dict[str, object]:
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure Hearth on this machine, as ratios within one run.")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go; default: bench-DATE.json in the working directory")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="only these")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("it starts an instance of its own and needs root")
    began, about, rows = time.monotonic(), machine(), []
    with private_home() as home:
        for row in measure(home, set(options.only), quick=options.quick):
            print(f"{row.name.strip()}: {row.measured}", file=sys.stderr, flush=True)
            rows.append(row)
    print(table(rows))
    path = options.json or Path(f"bench-{datetime.now():%Y-%m-%d}.json")
    whole = {
        "machine": about,
        "quick": options.quick,
        "seconds": round(time.monotonic() - began, 1),
        "rows": [row.to_json() for row in rows],
    }
    path.write_text(json.dumps(whole, indent=2) + "\n")
    missed = [row.name for row in rows if row.reached is False]
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
