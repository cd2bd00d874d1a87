"""A sweep of the embedded model against the same runs one after the other, and as a race; on the cores that there are.

Each part is timed from the first submission to the end of the last run, through the queue, in a home of its own whose
base answers are known (a run before the clock starts asks for them). All three train the same configs; what a sweep
leaves out of a run, the answers that a person watches while it learns, counts for it:

    python benchmarks/sweep.py --part alone --out sweep.json       # one after the other: a queue with one place
    python benchmarks/sweep.py --part together --out sweep.json    # the sweep
    python benchmarks/sweep.py --part race --out sweep.json        # the sweep as a race
    python benchmarks/sweep.py --out sweep.json --json             # what the three said

`--sample 8` with `--part alone` times eight of the 32 runs, one of each rank and two of each seed, and takes the others
to last as long: its `seconds` are four times `timed_seconds`, and its best is that of the eight alone. `--runs` makes
all parts shorter: the first so many of the 32. A part that is cut short says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lora_playground.variants  # noqa: F401  (a config is read by its variant's schema)
from lora_playground.config import RunConfig
from lora_playground.jobs.limits import Limits
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.service.sweeps import report
from lora_playground.sweeps import Grid, SweepScheduler
from lora_playground.sweeps.grid import Point

PAUSE = 0.2
"""Seconds between two looks at whether all is done."""
PARTS = ("alone", "together", "race")
RANKS, SEEDS = (1, 2, 4, 8, 16, 32, 64, 128), (0, 1, 2, 3)


def points(steps: int, batch_tokens: int, runs: int) -> list[Point]:
    """32 runs: eight ranks × four seeds on `pirate`."""
    data = {"data": {"dataset": "pirate"}, "training": {"steps": steps, "batch_tokens": batch_tokens}}
    return Grid(RANKS, (), (), SEEDS).points(RunConfig.parse(data))[:runs]


def spread(made: list[Point], count: int) -> list[Point]:
    """So many of the runs, every rank as often as every other, as far as that goes, and the seeds by turns."""
    by_place = {(point.rank, point.seed): point for point in made}
    ranks = list(dict.fromkeys(point.rank for point in made))
    seeds = list(dict.fromkeys(point.seed for point in made))
    turns = range(len(ranks) * len(seeds))
    places = dict.fromkeys((ranks[k % len(ranks)], seeds[(k + k // len(ranks)) % len(seeds)]) for k in turns)
    return [by_place[place] for place in places if place in by_place][:count]


def time_part(part: str, made: list[Point], home: Path | None) -> dict[str, Any]:
    """Seconds, and what the runs found; the runs stay in `home` where one is given."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = home or temporary
        slots = 1 if part == "alone" else None
        with Supervisor(Path(folder), slots=slots, limits=Limits(waiting=len(made) + 1), replay=False) as supervisor:
            before_the_clock(supervisor, made[0].config)
            began, used = time.monotonic(), time.process_time()
            found = (
                one_after_the_other(supervisor, made)
                if part == "alone"
                else as_a_sweep(supervisor, made, race=part == "race")
            )
            seconds, used = time.monotonic() - began, time.process_time() - used
            device = sum(row.used for row in supervisor.store.list())
            return {"seconds": round(seconds, 1), "slots": supervisor.slots, "device_seconds": round(device, 1),
                    "server_cpu_seconds": round(used, 1), **found}  # fmt: skip


def one_after_the_other(supervisor: Supervisor, made: list[Point]) -> dict[str, Any]:
    """As when a person presses Train so many times: all wait in a queue with one place."""
    jobs = [supervisor.submit(point.config) for point in made]
    while not all(supervisor.job(job.id).ended for job in jobs):
        time.sleep(PAUSE)
    assert all(supervisor.job(job.id).state == "done" for job in jobs)
    scored = [(supervisor.runs.get(job.id).result() or {})["score"]["adapted"] for job in jobs]
    best = max(range(len(jobs)), key=lambda number: scored[number])
    return {"done": len(jobs), "best": {"name": made[best].config.label, "score": scored[best]}}


def as_a_sweep(supervisor: Supervisor, made: list[Point], race: bool) -> dict[str, Any]:
    """As a sweep of all places."""
    scheduler = SweepScheduler(supervisor)
    sweep = scheduler.create(made, "benchmark", race=race)
    scheduler.start()
    while scheduler.store.get(sweep.id).ended is None:
        time.sleep(PAUSE)
    told = report(scheduler.status(sweep.id))
    scheduler.close()
    states = [one["state"] for one in told["runs"]]
    return {"done": states.count("done"), "out": states.count("out"), "failed": states.count("failed"),
            "best": told["best"], "scores_by_rank": told["scores_by_rank"]}  # fmt: skip


def before_the_clock(supervisor: Supervisor, config: RunConfig) -> None:
    """One short run, so that the base's answers are known, and a worker is ready."""
    training = config.training.model_copy(update={"steps": 2, "seed": 999})
    job = supervisor.submit(config.model_copy(update={"training": training, "title": "before"}))
    while not supervisor.job(job.id).ended:
        time.sleep(0.05)
    assert supervisor.job(job.id).state == "done", supervisor.job(job.id).error_message
    time.sleep(6)  # whatever is made ready for the next run is ready


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The ratios of what was measured."""
    parts = found["parts"]
    told: dict[str, Any] = {**found, "cores": os.cpu_count()}
    for part in ("together", "race"):
        if part in parts and "alone" in parts:
            told[f"{part}_over_alone"] = round(parts[part]["seconds"] / parts["alone"]["seconds"], 3)
    if "race" in parts and "together" in parts:
        best, winner = parts["together"]["best"], parts["race"]["best"]
        inside = best["low"] <= winner["score"]
        told["race_winner_within_best_interval"] = inside
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="measure this one; without it, tell what is known")
    parser.add_argument("--out", required=True, metavar="FILE", help="where the parts meet")
    parser.add_argument("--runs", type=int, default=32)
    parser.add_argument(
        "--sample", type=int, metavar="N", help="of the part `alone`, time N runs and take the rest alike"
    )
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--home", type=Path, metavar="DIR", help="a folder of its own, where the runs stay")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    out = Path(given.out)
    shape = {"runs": given.runs, "steps": given.steps, "batch_tokens": given.batch_tokens}
    known = json.loads(out.read_text()) if out.is_file() else {}
    found = known if known.get("shape") == shape else {"shape": shape, "parts": {}}
    if given.sample and given.part != "alone":
        parser.error("--sample goes with --part alone; a sweep and a race are of all runs")
    if given.part:
        made = points(given.steps, given.batch_tokens, given.runs)
        timed = spread(made, given.sample) if given.sample else made
        part = time_part(given.part, timed, given.home)
        if len(timed) < len(made):
            seconds = part["seconds"]
            part |= {"timed": len(timed), "timed_seconds": seconds}
            part["seconds"] = round(seconds * len(made) / len(timed), 1)
        found["parts"][given.part] = part
        out.write_text(json.dumps(found))
    told = summary(found)
    if given.json:
        print(json.dumps(told))
        return 0
    for part, one in told["parts"].items():
        best = one["best"]
        of = f" (from {one['timed']} runs)" if "timed" in one else ""
        print(f"{part:9} {one['seconds']:7.1f} s{of}, {one['slots']} at once, best {best['name']}: {best['score']:.3f}")
    for part in ("together", "race"):
        if f"{part}_over_alone" in told:
            print(f"{part} / alone = {told[f'{part}_over_alone']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
