"""A sweep in the queue: fed, paused, stopped, raced, and gone on with by another server; on a runner without processes.

The runner trains as a worker would, as seen from outside: it tells a validation loss where it is held, and at the end.
"""

import json
from pathlib import Path

import pytest

from lora_playground.config import RunConfig
from lora_playground.errors import RunError
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.models.sources import SHARED_VARIABLE
from lora_playground.runs.files import write_json
from lora_playground.sweeps import Grid, SweepScheduler
from lora_playground.ui.sweep_routes import card
from tests.jobs.support import FakeRunner
from tests.waiting import wait_until

STEPS = 8


class Trainer(FakeRunner):
    """Trains a run at once when told to: its loss is `losses[rank]` at every step."""

    def __init__(self, losses: dict[int, float]) -> None:
        super().__init__()
        self.losses, self.attended, self.trained = losses, True, 0

    def poll(self, handle):
        number = handle.pid
        if self.attended and self.status.get(number, 0) is None:
            self.train(number)
        return super().poll(handle)

    def train(self, number: int) -> None:
        run = self.runs[number]
        begun = run.progress().step if run.attempt > 1 else 0
        until = run.held_at() or STEPS
        self.trained += until - begun
        run.append({"type": "phase", "phase": "training"})
        run.append({"type": "plan", "steps": STEPS, "start_step": begun})
        steps = list(range(begun + 1, until + 1))
        loss = self.losses[run.config().variant.rank]
        run.append({"type": "loss", "steps": steps, "losses": [loss] * len(steps)})
        run.append({"type": "validation", "step": until, "loss": loss})
        if until == STEPS:
            self.finish(number)
        else:
            write_json(run.error_path, {"code": "held", "message": "held", "attempt": run.attempt, "log": []})
            self.status[number] = 1


@pytest.fixture
def trainer() -> Trainer:
    return Trainer({rank: 1 / rank for rank in (1, 2, 3, 4, 5, 6, 7, 8)})


def server(home: Path, runner: FakeRunner, slots: int = 2) -> tuple[Supervisor, SweepScheduler]:
    supervisor = Supervisor(home, runner, slots=slots, replay=False, admit=lambda *_: [])
    supervisor.start()
    scheduler = SweepScheduler(supervisor)
    scheduler.start()
    return supervisor, scheduler


def points(*ranks: int):
    base = RunConfig.parse({"training": {"steps": STEPS}})
    return Grid(ranks=ranks).points(base)


def states(scheduler: SweepScheduler, id: str) -> list[str]:
    return [member.state for member in scheduler.status(id).members]


def test_all_runs_of_a_sweep_are_made_in_turn_and_it_ends(home: Path, trainer: Trainer) -> None:
    supervisor, scheduler = server(home, trainer)
    with supervisor:
        sweep = scheduler.create(points(1, 2, 3, 4, 5), "five", owner="ann")
        wait_until(lambda: scheduler.store.get(sweep.id).ended is not None)
        status = scheduler.status(sweep.id)
        assert (status.state, status.share) == ("done", 1.0)
        assert [(m.entry.rank, m.state, m.step) for m in status.members] == [(r, "done", STEPS) for r in range(1, 6)]
        assert {supervisor.job(run).owner for run in scheduler.store.get(sweep.id).runs} == {"ann"}
        assert trainer.started == scheduler.store.get(sweep.id).runs, "in the order of the grid"
        assert not any(supervisor.runs.get(run).watched for run in trainer.started), "nobody watches each of them"
        scheduler.close()


def test_a_race_stops_the_worse_half_at_a_quarter_and_at_half_and_says_why(home: Path, trainer: Trainer) -> None:
    supervisor, scheduler = server(home, trainer)
    with supervisor:
        sweep = scheduler.create(points(1, 8, 2, 7, 3, 6, 4, 5), "race", race=True)
        wait_until(lambda: scheduler.store.get(sweep.id).ended is not None)
        members = {member.entry.rank: member for member in scheduler.status(sweep.id).members}
        assert {rank: member.step for rank, member in members.items()} == {
            1: 2, 2: 2, 3: 2, 4: 2, 5: 4, 6: 4, 7: 8, 8: 8
        }  # fmt: skip
        assert [members[rank].state for rank in (4, 5, 6, 7, 8)] == ["out", "out", "out", "done", "done"]
        assert trainer.trained == 8 * 2 + 4 * 2 + 2 * 4, "no step was trained twice"
        out = members[5].entry.out
        assert out == {"step": 4, "loss": 1 / 5, "place": 4, "of": 4}
        said = supervisor.runs.get(members[5].entry.run).error()["message"]
        assert said == members[5].why and "after step 4" in said and "number 4 of 4" in said
        assert members[5].validation_loss == 1 / 5 and len(members[5].progress.losses) == 4, "its curve stays"
        # A person may train on what the race has stopped.
        supervisor.resume(members[5].entry.run)
        wait_until(lambda: supervisor.job(members[5].entry.run).state == "done")
        assert scheduler.status(sweep.id).members[7].state == "done"
        scheduler.close()


def test_pause_and_go_on(home: Path, trainer: Trainer) -> None:
    trainer.attended = False
    supervisor, scheduler = server(home, trainer)
    with supervisor:
        sweep = scheduler.create(points(1, 2, 3, 4, 5, 6), "paused", owner="ann")
        wait_until(lambda: len(trainer.started) == 2)
        with pytest.raises(RunError, match="another browser"):
            scheduler.ask(sweep.id, "pause", "bob")
        scheduler.ask(sweep.id, "pause", "ann")
        wait_until(lambda: scheduler.status(sweep.id).state == "paused")
        assert not supervisor.dispatcher.active
        assert set(states(scheduler, sweep.id)) == {"paused", "planned"}
        trainer.attended = True
        scheduler.ask(sweep.id, "run", "ann")
        wait_until(lambda: scheduler.store.get(sweep.id).ended is not None)
        assert states(scheduler, sweep.id) == ["done"] * 6
        scheduler.close()


def test_stop_is_final_and_a_run_that_a_person_stopped_stays_so(home: Path, trainer: Trainer) -> None:
    trainer.attended = False
    supervisor, scheduler = server(home, trainer)
    with supervisor:
        sweep = scheduler.create(points(1, 2, 3, 4, 5, 6), "stopped")
        wait_until(lambda: len(trainer.started) == 2)
        supervisor.cancel(trainer.started[0])  # one run, not the sweep
        wait_until(lambda: len(trainer.started) == 3)
        assert states(scheduler, sweep.id)[0] == "stopped"
        scheduler.ask(sweep.id, "stop")
        wait_until(lambda: scheduler.status(sweep.id).state == "stopped" and not supervisor.dispatcher.active)
        scheduler.ask(sweep.id, "run")
        assert scheduler.status(sweep.id).state == "stopped"
        assert len(trainer.started) == 3
        shown = card(scheduler.status(sweep.id))
        assert "stopped" in shown and "<b>0</b> of 6 done" in shown and "lp-meter" not in shown, (
            "it has not come to 100%"
        )
        scheduler.close()


def test_another_server_goes_on_with_a_sweep(home: Path, trainer: Trainer) -> None:
    supervisor, scheduler = server(home, trainer)
    with supervisor:
        trainer.attended = False
        sweep = scheduler.create(points(1, 2, 3, 4, 5, 6, 7, 8), "race", race=True)
        wait_until(lambda: len(trainer.started) == 2)
        scheduler.close()  # the server ends in the middle of two runs
    again = Trainer(trainer.losses)
    supervisor, scheduler = server(home, again)
    with supervisor:
        wait_until(lambda: scheduler.store.get(sweep.id).ended is not None)
        done = [member.entry.rank for member in scheduler.status(sweep.id).members if member.state == "done"]
        assert done == [7, 8]
        assert len(scheduler.store.get(sweep.id).runs) == len(set(scheduler.store.get(sweep.id).runs)) == 8
        assert len(supervisor.runs.list()) == 8, "none was made twice"
        scheduler.close()


def test_another_persons_run_does_not_wait_for_the_whole_sweep(home: Path, trainer: Trainer) -> None:
    trainer.attended = False
    supervisor, scheduler = server(home, trainer, slots=1)
    with supervisor:
        scheduler.create(points(1, 2, 3, 4, 5, 6, 7, 8), "long", owner="ann")
        wait_until(lambda: len(trainer.started) == 1 and len(supervisor.jobs("ann")) == 3)
        bob = supervisor.submit(RunConfig.parse({"title": "quick"}), owner="bob")
        trainer.losses[8] = 1.0
        trainer.attended = True
        wait_until(lambda: supervisor.job(bob.id).state == "done")
        assert trainer.started.index(bob.id) == 1, "after the run that was going on"
        scheduler.close()


def test_a_queue_that_takes_no_more_is_told_and_asked_again(home: Path, trainer: Trainer) -> None:
    trainer.attended = False
    refused = ["The disk is full of runs."]

    def admit(config: RunConfig, home: Path) -> list[str]:
        if refused and config.variant.rank == 3:
            raise RunError(refused[0])
        return []

    supervisor = Supervisor(home, trainer, slots=1, replay=False, admit=admit)
    supervisor.start()
    scheduler = SweepScheduler(supervisor)
    scheduler.start()
    with supervisor:
        sweep = scheduler.store.create(points(1, 2, 3, 4), "refused", race=False)
        wait_until(lambda: scheduler.status(sweep.id).refused == refused[0])
        assert states(scheduler, sweep.id).count("planned") == 2
        refused.clear()
        trainer.attended = True
        wait_until(lambda: scheduler.store.get(sweep.id).ended is not None)
        assert states(scheduler, sweep.id) == ["done"] * 4 and scheduler.status(sweep.id).refused == ""
        scheduler.close()


def test_a_damaged_file_hides_no_other_sweep(home: Path, trainer: Trainer) -> None:
    supervisor, scheduler = server(home, trainer)
    with supervisor:
        sweep = scheduler.create(points(1), "whole")
        (home / "sweeps" / "torn.json").write_text(json.dumps({"id": "torn"}))
        wait_until(lambda: scheduler.store.get(sweep.id).ended is not None)
        assert [one.id for one in scheduler.store.list()] == [sweep.id]
        with pytest.raises(RunError, match="not a sweep's id"):
            scheduler.store.get("../jobs")
        scheduler.close()


def test_a_sweep_is_deleted_with_its_runs_once_nothing_goes_on(home: Path, trainer: Trainer) -> None:
    trainer.attended = False
    supervisor, scheduler = server(home, trainer)
    with supervisor:
        sweep = scheduler.create(points(1, 2, 3, 4), "doomed", owner="ann")
        other = supervisor.submit(RunConfig.parse({"title": "kept"}), owner="ann").id
        wait_until(lambda: len(trainer.started) == 2)
        with pytest.raises(RunError, match="stop it first"):
            scheduler.delete(sweep.id, "ann")
        scheduler.ask(sweep.id, "pause", "ann")
        wait_until(lambda: scheduler.status(sweep.id).state == "paused")
        with pytest.raises(RunError, match="another browser"):
            scheduler.delete(sweep.id, "bob")
        runs = scheduler.store.get(sweep.id).runs
        assert scheduler.delete(sweep.id, "ann") == len(runs) > 0
        assert scheduler.store.list() == [] and {run.id for run in supervisor.runs.list()} == {other}
        with pytest.raises(RunError, match="no sweep"):
            scheduler.ask(sweep.id, "run", "ann")
        trainer.attended = True  # and the server goes on with what is left
        wait_until(lambda: supervisor.job(other).state == "done")
        later = scheduler.create(points(5), "later")
        wait_until(lambda: scheduler.status(later.id).state == "done")
        scheduler.close()


def test_what_nobody_started_here_is_the_operators_on_a_shared_server(
    home: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, scheduler = server(home, trainer)
    with supervisor:
        sweep = scheduler.create(points(1), "of the command line")
        wait_until(lambda: scheduler.status(sweep.id).state == "done")
        monkeypatch.setenv(SHARED_VARIABLE, "1")
        for visitor in ("ann", ""):
            with pytest.raises(RunError, match="only whoever runs it"):
                scheduler.delete(sweep.id, visitor)
        monkeypatch.delenv(SHARED_VARIABLE)
        assert scheduler.delete(sweep.id, "ann") == 1
        scheduler.close()
