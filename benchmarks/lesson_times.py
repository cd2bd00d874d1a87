"""Seconds that a person waits in each lesson for its runs and measurements, with nothing made before.

    python benchmarks/lesson_times.py [--lessons NAME ...] [--json]

Each lesson is walked through the player as a page does it, on a home of its own, so that no run of another lesson is
played back. `run` is from pressing Run until every run has its result, `measure` until every number is there. Reading
and predicting, which go on beside it, and runs of one's own are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lora_playground.errors import PlaygroundError
from lora_playground.jobs.runner import LocalRunner
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.lessons import list_lessons
from lora_playground.lessons.player import Player
from lora_playground.lessons.schema import Lesson

VISITOR, POLL = "benchmark", 0.25
FAILED = ("failed", "cancelled", "interrupted")


def walk(lesson: Lesson) -> dict[str, float]:
    """{kind of step: seconds waited}, over all steps of a lesson."""
    waited = {"run": 0.0, "measure": 0.0, "reveal": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        runner = LocalRunner(home)
        with Supervisor(home, runner) as supervisor:
            player = Player(home, supervisor)
            while not runner.ready():
                time.sleep(POLL)
            for place, step in enumerate(lesson.steps):
                began = time.monotonic()
                if step.kind == "run":
                    player.start(VISITOR, lesson.name, place)
                    _until(player, lesson, place, lambda view: bool(view["done"]))
                elif step.kind == "measure":
                    _until(player, lesson, place, lambda view: bool(view["done"]))
                elif step.kind == "reveal":
                    _until(player, lesson, place, lambda view: bool(view["own"]))
                if step.kind in waited:
                    waited[step.kind] += time.monotonic() - began
    return waited


def _until(player: Player, lesson: Lesson, place: int, there: Callable[[dict[str, Any]], bool]) -> None:
    """Looks at a step until it is there. Raises PlaygroundError where a run failed."""
    while not there(view := player.view(VISITOR, lesson.name, place)):
        for state in view.get("states", []):
            if state["state"] in FAILED:
                raise PlaygroundError(f"{lesson.title}: {state['title']}: {state['problem'] or state['state']}")
        time.sleep(POLL)


def main() -> None:
    """Walks the lessons, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [lesson.name for lesson in list_lessons()]
    parser.add_argument("--lessons", nargs="*", choices=names, default=names, metavar="NAME", help="by name")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    told: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "lessons": {}}
    for lesson in list_lessons():
        if lesson.name not in given.lessons:
            continue
        try:
            waited = walk(lesson)
        except PlaygroundError as error:
            sys.exit(f"error: {error}")
        row = {"seconds": round(sum(waited.values()), 1)} | {kind: round(value, 1) for kind, value in waited.items()}
        told["lessons"][lesson.name] = row | {"minutes_stated": lesson.minutes}
        if not given.json:
            print(f"{lesson.name:24} {row['seconds']:6.1f} s  {row}", flush=True)
    if given.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
