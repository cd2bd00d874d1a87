"""From the click to the first loss, with a worker kept warm and with none; then how long Stop takes, and a resume.

Runs the real thing (embedded base, the dataset `pirate`, lora r 8) through the queue in a home of its own. Warm and
cold take turns, so that both meet the same machine; `ratio` is cold over warm, of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lora_playground.config import RunConfig
from lora_playground.jobs.runner import LocalRunner
from lora_playground.jobs.supervisor import Supervisor

CONFIG = {"data": {"dataset": "pirate"}, "variant": {"name": "lora", "rank": 8}}


def wait_warm(runner: LocalRunner) -> None:
    """Until the imports are done."""
    while not runner.ready():
        time.sleep(0.1)


def one(home: Path, warm: bool, resume: bool, steps: int) -> dict[str, float]:
    """Click, first loss, Stop, and perhaps resume to the end; seconds of each."""
    runner = LocalRunner(home, warm=warm)
    with Supervisor(home, runner) as supervisor:
        if warm:
            wait_warm(runner)
        clicked = time.monotonic()
        job = supervisor.submit(RunConfig.parse(CONFIG | {"training": {"steps": steps}}))
        run = supervisor.runs.get(job.id)
        while not any(event["type"] == "loss" for event in run.events()[0]):
            if supervisor.job(job.id).ended:
                raise SystemExit(f"the run ended early: {supervisor.job(job.id).error_message}")
            time.sleep(0.01)
        found = {"first_loss": time.monotonic() - clicked}
        at = {event["type"]: event["t"] for event in reversed(run.events()[0])}
        found |= {f"worker_{name}": at[name] for name in ("plan", "validation", "probe", "loss") if name in at}
        asked = time.monotonic()
        supervisor.cancel(job.id)
        while not supervisor.job(job.id).ended:
            time.sleep(0.01)
        found["stop"] = time.monotonic() - asked
        if resume:
            asked = time.monotonic()
            supervisor.resume(job.id)
            while not supervisor.job(job.id).ended:
                time.sleep(0.05)
            if supervisor.job(job.id).state != "done":
                raise SystemExit(f"the resumed run failed: {supervisor.job(job.id).error_message}")
            found["resume_to_done"] = time.monotonic() - asked
            print(json.dumps(run.result(), indent=1)[:1500], file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of a run, which is stopped at its first loss")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {"warm": [], "cold": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.repeats):
            for kind in ("warm", "cold"):
                last = kind == "warm" and number == given.repeats - 1
                rounds[kind].append(one(Path(folder), kind == "warm", last, given.steps))
    result: dict[str, Any] = {}
    for kind, found in rounds.items():
        for name in found[-1]:
            values = [values[name] for values in found if name in values]
            result[f"{kind}_{name}_seconds"] = round(statistics.median(values), 3)
    result["slowest_stop_seconds"] = round(max(value["stop"] for found in rounds.values() for value in found), 3)
    result["ratio"] = round(result["cold_first_loss_seconds"] / result["warm_first_loss_seconds"], 2)
    print(json.dumps(result) if given.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
