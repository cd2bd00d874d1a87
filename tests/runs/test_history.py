"""The history of a run: one curve over attempts, plans that change, reading what was appended, snapshots."""

from pathlib import Path
from typing import Any

import pytest

from lora_playground.config import RunConfig
from lora_playground.runs import RunStore
from lora_playground.runs.history import RunProgress, history


def plan(steps: int, start: int = 0, attempt: int = 1) -> dict[str, Any]:
    return {"type": "plan", "steps": steps, "start_step": start, "attempt": attempt}


def losses(*steps: int, attempt: int = 1) -> dict[str, Any]:
    """Losses that tell in which attempt they were measured."""
    values = [100 * attempt + float(step) for step in steps]
    return {"type": "loss", "steps": list(steps), "losses": values, "learning_rates": values, "attempt": attempt}


def curve_of(events: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """The curve as the list of events has it."""
    return [pair for event in events if event["type"] == "loss" for pair in zip(event["steps"], event["losses"])]


BUDGETED = [
    plan(40),
    losses(1, 2),
    {"type": "validation", "step": 2, "loss": 5.0, "attempt": 1},
    plan(30),
    losses(3, 4),
    plan(35),
    losses(5),
]


def test_a_plan_that_a_time_budget_corrects_cuts_nothing() -> None:
    told = RunProgress.of(BUDGETED)
    assert told.steps == [1, 2, 3, 4, 5] and told.planned == 35 and told.validation == [(2, 5.0)]
    assert curve_of(history(BUDGETED)) == list(zip(told.steps, told.losses))


def test_an_attempt_cuts_behind_its_start_and_its_later_plans_cut_nothing() -> None:
    again = [
        plan(40, 3, attempt=2),
        losses(4, 5, attempt=2),
        plan(50, 3, attempt=2),
        losses(6, attempt=2),
        {"type": "phase", "phase": "loading", "attempt": 3},
    ]
    events = [*BUDGETED, {"type": "checkpoint", "step": 4, "attempt": 1}, *again]
    told = RunProgress.of(events)
    curve = [(1, 101.0), (2, 102.0), (3, 103.0), (4, 204.0), (5, 205.0), (6, 206.0)]
    assert list(zip(told.steps, told.losses)) == list(zip(told.steps, told.learning_rates)) == curve
    assert curve_of(history(events)) == curve
    assert (told.attempt, told.phase, told.planned, told.checkpoint) == (3, "loading", 50, 3)
    restarted = RunProgress.of([*events, plan(40, 0, attempt=3)])
    assert restarted.steps == [] and restarted.validation == [] and restarted.checkpoint == 0


def test_a_store_reads_only_what_was_appended(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run = store.create(RunConfig())
    assert store.progress(run).version == 0 and store.progress(run).attempt == 0
    for event in (plan(9), losses(1, 2), {"type": "of a later version", "step": 1}):
        run.append(event)
    told = store.progress(run)
    assert told.steps == [1, 2] and told.version == 3
    with open(run.events_path, "a") as file:
        file.write('{"type": "loss", "steps": [3], "lo')
    assert store.progress(run) is told and told.version == 3, "a torn last line waits"
    with open(run.events_path, "a") as file:
        file.write('sses": [0.5]}\n')
    assert store.progress(run).losses == [101.0, 102.0, 0.5] == run.progress().losses


def test_a_curve_gives_the_points_that_are_new() -> None:
    told = RunProgress.of(BUDGETED[:4])
    whole = told.curve()
    assert whole["steps"] == [1, 2] and whole["planned"] == 30 and whole["version"] == 4 and whole["kept"] == [0, 0]
    told.take(losses(3))
    told.take({"type": "validation", "step": 3, "loss": float("nan")})
    new = told.curve(4)
    assert new["steps"] == [3] and new["kept"] == [2, 1] and new["validation"] == [(3, None)]
    told.take(plan(40, 1, attempt=2))
    cut = told.curve(6)
    assert cut["steps"] == [1] and cut["kept"] == [0, 0], "who knew of later steps gets the curve anew"
    assert told.curve(told.version)["steps"] == []


@pytest.mark.parametrize("since", [-1, 99])
def test_a_version_that_never_was_gets_everything(since: int) -> None:
    told = RunProgress.of(BUDGETED).curve(since)
    assert told["kept"] == [0, 0] and told["steps"] == [1, 2, 3, 4, 5]
