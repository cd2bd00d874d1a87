"""The commands `sweep`, which trains a grid of runs and says what they show, `sweeps` and `delete-sweep`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from lora_playground.cli.flags import add_train_flags, build_config
from lora_playground.cli.progress import Progress
from lora_playground.errors import ConfigError, JobError, RunError
from lora_playground.runs import RunStore
from lora_playground.wording import counted

SWEPT = {"variant": ("variant", str), "rank": ("variant.rank", int), "learning_rate": ("training.learning_rate", float),
         "seed": ("training.seed", int)}  # fmt: skip
"""{option that may have several values: (name of its flag after parsing, type of a value)}."""
POLL_SECONDS = 0.5
"""Seconds between two looks at how far a sweep has come."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `sweep`: those of `train`, four of which take several values."""
    parser.epilog = "--rank, --variant, --learning-rate and --seed take several values: --rank 1,2,4 --seed 0,1"
    add_train_flags(parser)
    parser.add_argument("--race", action="store_true", help="at 1/4 and 1/2 of the steps the worse half stops")
    parser.add_argument("--resume", metavar="SWEEP", help="go on with a sweep that was stopped by Ctrl+C")
    parser.add_argument("--slots", type=int, metavar="N", help="runs at once (default: what cores and GPUs allow)")


def sweep(args: argparse.Namespace) -> dict[str, Any]:
    """`sweep`: trains the runs in this process or, if a server uses this home, has that server do it; waits for the
    end."""
    from lora_playground.jobs.supervisor import Supervisor
    from lora_playground.sweeps import SweepScheduler

    try:
        supervisor = Supervisor(args.home, slots=args.slots)
    except JobError as error:
        if "Another server" not in str(error):
            raise
        return _beside_a_server(args)
    with supervisor:
        scheduler = SweepScheduler(supervisor)
        scheduler.start()
        try:
            made = scheduler.ask(args.resume, "run") if args.resume else scheduler.create(*_grid(args), args.race)
            _tell_start(made.id, len(made.entries), supervisor.slots)
            return _wait(lambda: scheduler.status(made.id))
        except KeyboardInterrupt:
            with contextlib.suppress(UnboundLocalError):
                scheduler.ask(made.id, "pause")
                until = time.monotonic() + 8
                while scheduler.status(made.id).state != "paused" and time.monotonic() < until:
                    time.sleep(0.1)
                print(f"stopped; go on with: lora-playground sweep --resume {made.id}", file=sys.stderr)
            raise
        finally:
            scheduler.close()


def _beside_a_server(args: argparse.Namespace) -> dict[str, Any]:
    """Stores the sweep in HOME/sweeps, where the server finds it, and watches it until it ends."""
    from lora_playground.sweeps import SweepStore

    if args.resume:
        raise RunError("A server uses this home; go on with the sweep there, in the tab Lab.")
    runs = RunStore(args.home)
    store = SweepStore(runs.home)
    made = store.create(*_grid(args), args.race)
    print("a server uses this home: it makes the runs; Ctrl+C ends only this view", file=sys.stderr)
    _tell_start(made.id, len(made.entries), None)
    return _wait(lambda: _read(store.get(made.id), runs))


def sweeps(args: argparse.Namespace) -> list[dict[str, Any]]:
    """`sweeps`: one row for each sweep."""
    from lora_playground.service.sweeps import line
    from lora_playground.sweeps import SweepStore

    runs = RunStore(args.home)
    return [line(_read(one, runs)) for one in SweepStore(runs.home).list()]


def delete_sweep(args: argparse.Namespace) -> dict[str, Any]:
    """`delete-sweep`: deletes a sweep that is not running, with all its runs."""
    from lora_playground.jobs.supervisor import Supervisor
    from lora_playground.sweeps import SweepScheduler, SweepStore, delete

    try:
        supervisor = Supervisor(args.home)
    except JobError as error:
        if "Another server" not in str(error):
            raise
        runs = RunStore(args.home)
        store = SweepStore(runs.home)
        count = delete(_read(store.get(args.sweep), runs), store, runs.delete)
    else:
        try:
            scheduler = SweepScheduler(supervisor)  # not started, so that no run is queued
            scheduler.ask(args.sweep, "pause")
            count = scheduler.delete(args.sweep)
        finally:
            supervisor.close()
    return {"sweep": args.sweep, "deleted": True, "runs": count}


def _read(sweep: Any, runs: RunStore) -> Any:
    """How far a sweep has come, read from its runs' folders."""
    from lora_playground.jobs.job import Job
    from lora_playground.sweeps import read_status

    return read_status(sweep, runs, lambda id: Job.of_run(runs.get(id)))


def _grid(args: argparse.Namespace) -> tuple[list[Any], str]:
    """(the runs, the sweep's name). Raises ConfigError."""
    from lora_playground.sweeps import Grid

    values = {name: _several(args, name) for name in SWEPT}
    for name, (flag, _) in SWEPT.items():
        if values[name]:
            setattr(args, flag, str(values[name][0]))
    base = build_config(args)
    grid = Grid(values["rank"], values["variant"], values["learning_rate"], values["seed"])
    return grid.points(base), grid.label(base)


def _several(args: argparse.Namespace, name: str) -> tuple[Any, ...]:
    flag, kind = SWEPT[name]
    text = getattr(args, flag, None)
    if text is None:
        return ()
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        word = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"--{name.replace('_', '-')}", text, f"give {word}, with commas between them") from None


def _tell_start(id: str, runs: int, slots: int | None) -> None:
    at_once = f", {min(slots, runs)} at once" if slots else ""
    print(f"sweep {id}: {counted(runs, 'run')}{at_once}", file=sys.stderr)


def _wait(look: Callable[[], Any]) -> dict[str, Any]:
    """Shows progress until a sweep has ended; returns its report.

    Args:
        look: returns the sweep's current status.
    """
    from lora_playground.service.sweeps import report

    reported: set[int] = set()
    with Progress() as progress:
        while True:
            status = look()
            for text in _news(status, reported):
                progress.say(f"  {text}")
            if status.sweep.ended is not None:
                return report(status)
            done = sum(member.final for member in status.members)
            beside = f"{done} of {len(status.members)} runs"
            progress.count(round(100 * status.share), 100, "percent", status.eta, beside)
            time.sleep(POLL_SECONDS)


def _news(status: Any, reported: set[int]) -> Iterator[str]:
    """A line for each run that has ended and whose number is not in `reported`; adds it there."""
    for member in status.members:
        if member.final and member.number not in reported:
            reported.add(member.number)
            loss = "" if member.validation_loss is None else f", validation loss {member.validation_loss:.3f}"
            score = f"{100 * member.score['adapted']:.0f}%" if member.score else member.state
            yield f"{member.entry.name}: {member.why or score + loss}"


def show_sweep(value: dict[str, Any]) -> None:
    """Prints the runs as a table, and what they show."""
    for one in value["runs"]:
        score = ""
        if one["score"] is not None:
            score = f"{100 * one['score']:5.1f}% [{100 * one['low']:.0f}, {100 * one['high']:.0f}]"
        loss = "" if one["validation_loss"] is None else f"{one['validation_loss']:.3f}"
        print(f"{one['name']:44} {one['state']:8} step {one['step']:>5}  loss {loss:>7}  {score}")
    for words in value["words"].values():
        print(words)
    print(f"{value['label']}: {value['state']} in {value['seconds']:.0f} s; HOME/sweeps/{value['sweep']}.json")
