"""The queue: fairness, double clicks, owners, limits, restart; on a runner without processes."""

import logging
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from lora_playground.errors import ConfigError, JobError, RunError
from lora_playground.jobs.limits import Limits
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.runs import RunStore
from lora_playground.runs.files import write_json
from tests.jobs.support import FakeRunner, config, wait_for, wait_until


@pytest.fixture
def fake() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def queue(home: Path, fake: FakeRunner):
    with Supervisor(home, fake, slots=1, replay=False, admit=lambda *_: []) as supervisor:
        yield supervisor


def test_no_worker_is_made_ready_before_the_first_page(home: Path, fake: FakeRunner) -> None:
    supervisor = Supervisor(home, fake, slots=1, replay=False, admit=lambda *_: [])
    supervisor.start(unready=3600)
    try:
        job = supervisor.submit(config("quick"))  # whoever asks meanwhile is served all the same
        wait_for(supervisor, job.id, "done")
        assert fake.prepared == 0
        supervisor.make_ready()
        wait_until(lambda: fake.prepared > 0)
    finally:
        supervisor.close()


def finish(supervisor: Supervisor, fake: FakeRunner, id: str) -> None:
    wait_until(lambda: id in fake.started)
    fake.finish(fake.started.index(id) + 1)
    supervisor.dispatcher.poke()
    wait_for(supervisor, id, "done")


def test_from_click_to_done(queue: Supervisor, fake: FakeRunner) -> None:
    job = queue.submit(config("first"))
    assert job.label == "first"
    wait_until(lambda: job.id in fake.started)
    fake.runs[1].append({"type": "phase", "phase": "loading"})
    fake.runs[1].append({"type": "phase", "phase": "training"})
    fake.runs[1].append({"type": "plan", "steps": 10, "start_step": 0})
    fake.runs[1].append({"type": "loss", "steps": [1, 2], "losses": [3.0, 2.0], "eta": 4.0})
    wait_until(lambda: queue.job(job.id).step == 2)
    running = queue.job(job.id)
    assert running.running and (running.state, running.steps) == ("training", 10)
    assert running.eta is not None and 0 <= running.eta <= 4.0, "counted down"
    for phase in ("saving", "evaluating"):
        fake.runs[1].append({"type": "phase", "phase": phase})
        wait_for(queue, job.id, phase)
    fake.runs[1].append({"type": "phase", "phase": "training"})
    finish(queue, fake, job.id)
    done = queue.job(job.id)
    assert done.ended and done.started and done.finished and done.finished >= done.started
    assert queue.jobs() == [done]


def test_a_double_click_is_one_job(queue: Supervisor) -> None:
    found: list[str] = []
    barrier = threading.Barrier(8)

    def click() -> None:
        barrier.wait()
        found.append(queue.submit(config(), owner="ann", nonce="n").id)

    threads = [threading.Thread(target=click) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1 == len(queue.runs.list())
    assert queue.submit(config(), owner="bob", nonce="n").id != found[0]


def test_one_at_a_time_and_the_other_owner_next(queue: Supervisor, fake: FakeRunner) -> None:
    ann = [queue.submit(config(f"ann {number}"), owner="ann").id for number in range(4)]
    wait_until(lambda: fake.started)
    bob = queue.submit(config("bob"), owner="bob")
    assert bob.state == "queued" and bob.position == 1
    assert [queue.job(id).position for id in ann] == [None, 2, 3, 4]
    finish(queue, fake, ann[0])
    wait_until(lambda: len(fake.started) == 2)
    assert fake.started == [ann[0], bob.id]


def test_an_owner_holds_one_of_several_places_beside_others_and_all_when_alone(home: Path, fake: FakeRunner) -> None:
    with Supervisor(home, fake, slots=2, replay=False, admit=lambda *_: []) as supervisor:
        assert supervisor.slots == 2
        ann = [supervisor.submit(config(), owner="ann").id for _ in range(3)]
        wait_until(lambda: len(fake.started) == 2)
        bob = supervisor.submit(config(), owner="bob").id
        assert fake.started == ann[:2] and supervisor.job(bob).position == 1
        finish(supervisor, fake, ann[0])
        wait_until(lambda: len(fake.started) == 3)
        finish(supervisor, fake, ann[1])
        again = supervisor.submit(config(), owner="bob").id
        wait_until(lambda: len(fake.started) == 4)
        assert fake.started[2:] == [bob, ann[2]] and supervisor.job(again).state == "queued"


def test_limits_are_told_and_nothing_is_left(home: Path, fake: FakeRunner) -> None:
    with Supervisor(
        home, fake, limits=Limits(waiting=2), queue_size=3, slots=1, replay=False, admit=lambda *_: []
    ) as supervisor:
        supervisor.submit(config(), owner="ann")
        wait_until(lambda: fake.started)
        for _ in range(2):
            supervisor.submit(config(), owner="ann")
        with pytest.raises(JobError, match="2 runs waiting"):
            supervisor.submit(config(), owner="ann")
        supervisor.submit(config(), owner="bob")
        with pytest.raises(JobError, match="all the queue takes"):
            supervisor.submit(config(), owner="eve")
        assert len(supervisor.runs.list()) == len(supervisor.jobs()) == 4


def test_a_disk_without_room_takes_no_job(home: Path, fake: FakeRunner) -> None:
    with Supervisor(home, fake, min_free_bytes=1 << 60, slots=1, replay=False, admit=lambda *_: []) as supervisor:
        with pytest.raises(JobError, match="MB free"):
            supervisor.submit(config())
        assert supervisor.runs.list() == []


def test_what_does_not_fit_this_machine_is_refused(home: Path, fake: FakeRunner) -> None:
    def refuse(*_: object) -> list[str]:
        raise ConfigError("data.dataset", "x", "choose one of: pirate")

    with Supervisor(home, fake, admit=refuse) as supervisor:
        with pytest.raises(ConfigError, match="choose one of"):
            supervisor.submit(config())
        assert supervisor.runs.list() == [] == supervisor.jobs()


def test_cancel_in_every_state(queue: Supervisor, fake: FakeRunner) -> None:
    running, waiting = queue.submit(config()).id, queue.submit(config()).id
    wait_until(lambda: running in fake.started)
    assert queue.cancel(waiting).state == "cancelled"
    assert queue.cancel(waiting).state == "cancelled"
    queue.cancel(running)
    queue.cancel(running)
    wait_for(queue, running, "cancelled")
    assert fake.cancelled == [(1, "flag")]
    error = queue.runs.get(running).error()
    assert error is not None and error["code"] == "cancelled" == queue.job(running).error_code
    assert queue.runs.get(running).state() == "cancelled"
    done = queue.submit(config()).id
    finish(queue, fake, done)
    assert queue.cancel(done).state == "done"
    assert waiting not in fake.started


def test_a_job_that_finishes_while_it_is_stopped_is_done(queue: Supervisor, fake: FakeRunner) -> None:
    id = queue.submit(config()).id
    wait_until(lambda: id in fake.started)
    fake.finish(1)
    queue.cancel(id)
    wait_for(queue, id, "done")


def test_another_owners_job_is_not_touched(queue: Supervisor) -> None:
    id = queue.submit(config(), owner="ann").id
    for ask in (queue.cancel, queue.resume, queue.delete, queue.job):
        with pytest.raises(JobError, match="started in another browser"):
            ask(id, owner="bob")
    with pytest.raises((RunError, JobError), match="20260101-000000-000-0000"):
        queue.cancel("20260101-000000-000-0000", owner="bob")
    assert not queue.job(id, owner="ann").ended and queue.jobs("bob") == []
    for bad in ("../../etc", "nothing"):
        with pytest.raises((RunError, JobError)):
            queue.cancel(bad)
        with pytest.raises(RunError):
            queue.job(bad)


def test_a_run_that_dies_while_it_is_scored_is_done(queue: Supervisor, fake: FakeRunner) -> None:
    id = queue.submit(config()).id
    wait_until(lambda: id in fake.started)
    fake.finish(1)
    queue.runs.get(id).fail("killed", "by the system")
    fake.status[1] = -9
    assert wait_for(queue, id, "done").error_code is None
    assert queue.runs.get(id).state() == "done"


def test_a_result_of_another_attempt_is_none_of_this_one(queue: Supervisor, fake: FakeRunner) -> None:
    id = queue.submit(config()).id
    wait_until(lambda: id in fake.started)
    write_json(queue.runs.get(id).result_path, {"state": "done", "attempt": 7})
    fake.status[1] = 0
    job = wait_for(queue, id, "failed")
    assert job.error_code == "error" and "without a result" in (job.error_message or "")


def test_resume_is_another_attempt(queue: Supervisor, fake: FakeRunner) -> None:
    id = queue.submit(config()).id
    wait_until(lambda: id in fake.started)
    fake.status[1] = -9
    wait_for(queue, id, "failed")
    assert queue.resume(id).attempt == 2
    assert queue.resume(id).attempt == 2
    wait_until(lambda: len(fake.started) == 2)
    assert fake.started == [id, id] and fake.runs[2].attempt == 2
    finish_second = fake.runs[2]
    finish_second.append({"type": "phase", "phase": "training"})
    fake.finish(2)
    job = wait_for(queue, id, "done")
    assert job.attempt == 2 and job.error_code is None and queue.runs.get(id).error() is None
    with pytest.raises(JobError, match="nothing to resume"):
        queue.resume(id)


def test_delete_only_what_has_ended(queue: Supervisor, fake: FakeRunner) -> None:
    id = queue.submit(config()).id
    with pytest.raises(JobError, match="stop it first"):
        queue.delete(id)
    finish(queue, fake, id)
    queue.delete(id)
    assert queue.jobs() == [] == queue.runs.list()


def test_restart_keeps_the_queue_and_its_order(home: Path) -> None:
    first, before = Supervisor(home, FakeRunner(), slots=1, replay=False, admit=lambda *_: []), FakeRunner()
    ids = [first.submit(config(str(number))).id for number in range(4)]
    first.dispatcher.runner = before
    first.start()
    wait_until(lambda: before.started)
    before.runs[1].append({"type": "phase", "phase": "training"})
    wait_for(first, ids[0], "training")
    first.close()
    after = FakeRunner()
    second = Supervisor(home, after, slots=1, replay=False, admit=lambda *_: [])
    assert [second.job(id).state for id in ids] == ["interrupted", "queued", "queued", "queued"]
    with second:
        for id in ids[1:]:
            finish(second, after, id)
        assert after.started == ids[1:]


def died(home: Path, **values: object) -> str:
    """A table as a server leaves it that was killed while a job trained."""
    supervisor = Supervisor(home, FakeRunner(), slots=1, replay=False, admit=lambda *_: [])
    id = supervisor.submit(config()).id
    supervisor.store.move(id, 1, "loading", handle={"pid": 2**22 + 1, "start_ticks": "1", "boot_id": "", "token": "t"})
    supervisor.store.move(id, 1, "training")
    if values:
        supervisor.store.set(id, 1, **values)
    supervisor.store.close()
    os.close(supervisor._lock_file)
    return id


def test_what_ran_when_the_server_died_is_interrupted(home: Path, fake: FakeRunner) -> None:
    id = died(home)
    (RunStore(home).get(id).folder / "adapter.tmp").mkdir()
    with Supervisor(home, fake, slots=1, replay=False, admit=lambda *_: []) as supervisor:
        job = supervisor.job(id)
        assert job.state == "interrupted" and "while this run was training" in (job.error_message or "")
        assert not (supervisor.runs.get(id).folder / "adapter.tmp").exists()
        assert supervisor.resume(id).attempt == 2
        wait_until(lambda: fake.started == [id])


def test_a_run_resumed_to_its_end_by_the_command_line_is_done(home: Path, fake: FakeRunner) -> None:
    id = died(home)
    with Supervisor(home, fake, slots=1, replay=False, admit=lambda *_: []) as supervisor:
        assert supervisor.job(id).state == "interrupted"
        (home / "runs" / id / "result.json").write_text('{"state": "done"}')
        assert supervisor.job(id).state == supervisor.jobs()[0].state == "done"
        assert not supervisor.job(id).resumable and not supervisor.job(id).error_message
        with pytest.raises(JobError, match="is done"):
            supervisor.resume(id)


def test_a_stop_that_the_server_died_over_stays_a_stop(home: Path, fake: FakeRunner) -> None:
    id = died(home, cancel_requested=1)
    with Supervisor(home, fake, slots=1, replay=False, admit=lambda *_: []) as supervisor:
        assert supervisor.job(id).state == "cancelled"


def test_a_finished_run_whose_server_died_is_done(home: Path, fake: FakeRunner) -> None:
    id = died(home)
    (home / "runs" / id / "result.json").write_text('{"state": "done"}')
    with Supervisor(home, fake, slots=1, replay=False, admit=lambda *_: []) as supervisor:
        assert supervisor.job(id).state == "done"


def test_two_servers_on_one_home(home: Path, fake: FakeRunner) -> None:
    with Supervisor(home, fake, slots=1):
        with pytest.raises(JobError, match=rf"process {os.getpid()}.*--home"):
            Supervisor(home, FakeRunner())
    Supervisor(home, FakeRunner()).close()


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file" / "home", Path("/proc/home")):
        with pytest.raises(JobError, match="--home"):
            Supervisor(home)


def test_a_corrupt_table_is_rebuilt_from_the_runs(home: Path, fake: FakeRunner) -> None:
    with Supervisor(home, fake, slots=1, replay=False, admit=lambda *_: []) as supervisor:
        done, failed, waiting = (supervisor.submit(config(title)).id for title in ("done", "failed", "waiting"))
        finish(supervisor, fake, done)
        wait_until(lambda: failed in fake.started)
        fake.status[2] = -9
        wait_for(supervisor, failed, "failed")
    (home / "jobs.db").write_bytes(b"\0garbage" * 1000)
    with Supervisor(home, FakeRunner(), slots=1, replay=False, admit=lambda *_: []) as supervisor:
        assert "set aside" in supervisor.messages[0]
        assert [supervisor.job(id).state for id in (done, failed, waiting)] == ["done", "failed", "interrupted"]
        assert [job.id for job in supervisor.jobs()] == [waiting, failed, done]


def test_a_run_of_the_command_line_is_shown_and_can_be_resumed(queue: Supervisor, fake: FakeRunner) -> None:
    run = queue.runs.create(config("by hand"))
    run.append({"type": "phase", "phase": "loading"})
    assert queue.job(run.id).state == "interrupted"
    with run.locked(), pytest.raises(JobError, match="outside this server"):
        queue.resume(run.id)
    assert queue.resume(run.id).attempt == 2
    wait_until(lambda: fake.started == [run.id])


def test_a_table_that_fails_for_a_while_loses_nothing(queue: Supervisor, fake: FakeRunner, monkeypatch, caplog) -> None:
    id = queue.submit(config()).id
    wait_until(lambda: id in fake.started)
    failures = []
    move = queue.store.move

    def full(*args: object, **values: object) -> bool:
        if len(failures) < 3:
            failures.append(1)
            raise sqlite3.OperationalError("database or disk is full")
        return move(*args, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(queue.store, "move", full)
    with caplog.at_level(logging.CRITICAL):
        fake.finish(1)
        wait_for(queue, id, "done")
    assert len(failures) == 3


@pytest.mark.parametrize("error", [OSError("no more processes"), JobError("the worker ended at once")])
def test_a_job_that_cannot_be_started_has_failed(
    queue: Supervisor, fake: FakeRunner, monkeypatch, caplog, error
) -> None:
    move, refused = queue.store.move, []

    def full(id: str, attempt: int, state: str, **values: object) -> bool:
        if state == "failed" and not refused:
            refused.append(1)
            raise sqlite3.OperationalError("database or disk is full")
        return move(id, attempt, state, **values)

    def refuse(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
        patch.setattr(queue.store, "move", full)
        patch.setattr(fake, "submit", refuse)
        id = queue.submit(config()).id
        job = wait_for(queue, id, "failed")
    assert refused and job.error_message == str(error) == (queue.runs.get(id).error() or {})["message"]
    finish(queue, fake, queue.submit(config()).id)


def test_a_table_that_takes_no_job_leaves_no_run(queue: Supervisor, monkeypatch) -> None:
    def full(*_: object) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(queue.store, "add", full)
    with pytest.raises(JobError, match="Nothing was started"):
        queue.submit(config())
    assert queue.runs.list() == []


def test_an_idle_queue_sleeps(home: Path, fake: FakeRunner, monkeypatch) -> None:
    pauses: list[float] = []
    supervisor = Supervisor(home, fake)
    monkeypatch.setattr(supervisor.dispatcher._wake, "wait_for", lambda ready, timeout: pauses.append(timeout))
    with supervisor:
        wait_until(lambda: pauses)
    assert min(pauses) >= 1.0
