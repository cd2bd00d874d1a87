"""Learning rates over the steps, and how a budget of seconds becomes a number of steps."""

import math

import pytest
import torch

from lora_playground.config import TrainingConfig
from lora_playground.training import reports
from lora_playground.training.reports import Report
from lora_playground.training.schedule import Budget, common_steps, factor


def test_schedules():
    config = TrainingConfig(steps=100, warmup=0.1)
    values = [factor(step, 100, config) for step in range(100)]
    assert values[0] == pytest.approx(0.1) and max(values) == 1.0 and values.index(1.0) == 9
    assert values[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5))) and 0 <= values[-1] < 0.01
    linear = TrainingConfig(steps=100, warmup=0.0, schedule="linear")
    assert factor(0, 100, linear) == 1.0 and factor(50, 100, linear) == pytest.approx(0.5)
    assert factor(99, 100, TrainingConfig(warmup=0.0, schedule="constant")) == 1.0


@pytest.mark.parametrize("steps", [1, 24, 60, 120, 1000])
def test_runs_of_a_sweep_are_validated_after_the_same_steps_for_a_tenth_of_the_time(steps):
    found = common_steps(TrainingConfig(steps=steps))
    assert math.ceil(steps / 4) in found and max(found) <= steps, "where a race compares them"
    assert len(found) == 1 or 1.65 * len(found) <= 0.1 * steps
    assert len(found) == {1: 1, 24: 1, 60: 3, 120: 7, 1000: 8}[steps]
    for chosen in ({"seconds": 20.0}, {"validate_every": 5}, {"early_stop": True}):
        assert not common_steps(TrainingConfig(steps=steps, **chosen))


def test_time_budget_sets_the_steps():
    budget = Budget(200, seconds=10.0)
    assert not budget.update(1, 5.0)  # the first step warms up
    assert budget.update(5, 5.4) and budget.steps == 5 + 46
    assert not Budget(200, None).update(50, 1.0)
    slower = Budget(200, 10.0)
    slower.update(1, 0.1)
    slower.update(5, 0.5)
    assert slower.steps == 5 + 95
    slower.update(20, 3.6)
    assert slower.steps < 60


@pytest.mark.parametrize("later", [0.5, 1.0, 2.0])
def test_a_machine_that_changes_its_pace_keeps_to_the_budget(later):
    budget, done, elapsed, changes = Budget(200, 60.0), 0, 0.0, 0
    budget.reserve = 1.0
    while done < budget.steps:
        done += 1
        elapsed += 0.2 * (later if elapsed > 40 else 1.0) + (0.5 if done % 30 == 1 else 0.0)
        changes += budget.update(done, elapsed)
    assert 56 <= elapsed <= 59.9 and changes <= 14
    assert factor(done - 1, budget.steps, TrainingConfig()) < 0.01


def test_a_budget_shorter_than_the_first_look_still_trains():
    budget = Budget(200, 5.0)
    seen = [step for step in range(1, 10) if budget.update(step, 20.0 + step) and budget.steps == step]
    assert seen[0] == 1 + Budget.FEWEST


def test_reports_between_start_and_end_take_a_share_of_the_time():
    told = []
    report = Report(told.append, "validation", lambda step: {"loss": 1.0}, share=0.1, grace=0.5)
    assert report.send(0, 0.0) == {"loss": 1.0}
    report.cost = 0.6
    report.maybe(1, 0.9)  # 0.09 s and the grace do not pay for 0.6
    assert [event["step"] for event in told] == [0]
    report.maybe(2, 1.0)
    assert told[1:] == [{"type": "validation", "step": 2, "loss": 1.0}]
    report.every, report.cost = 2.0, 0.0
    report.maybe(3, 2.9)
    report.maybe(4, 3.0)
    assert [event["step"] for event in told] == [0, 2, 4]


def test_the_time_left_follows_the_last_steps_and_counts_what_comes_after(monkeypatch):
    clock, told = [100.0], []
    monkeypatch.setattr(reports.time, "perf_counter", lambda: clock[0])
    losses = reports.LossReport(told.append, lambda: 100, after=5.0)
    for step in range(1, 61):
        clock[0] += 1.0 if step <= 30 else 3.0  # the machine becomes busy, or probes come between the steps
        losses.pause(0.5)
        losses.add(step, torch.tensor(1.0), torch.tensor(1.0), 1e-3, 10)
        assert losses.flush() is None
    assert [told[step - 1]["eta"] for step in (20, 60)] == [85.0, 125.0]
