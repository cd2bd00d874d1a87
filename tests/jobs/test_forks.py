"""Workers forked from a process that has imported everything: they train as any other, and are ended as any other."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from lora_playground.jobs.forks import Forks
from lora_playground.jobs.runner import LocalRunner
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.runs import Run
from lora_playground.ui.feed import Feed
from lora_playground.ui.identity import Identity
from lora_playground.ui.run_list_cache import RunListCache
from tests.jobs.support import STEPS, FakeRunner, alive, config, marked, new_run, wait_for, wait_until

pytestmark = pytest.mark.skipif(not Forks.possible(), reason="workers are forked on Linux without a GPU only")


def losses(run: Run) -> list[float]:
    return [loss for event in run.history() if event["type"] == "loss" for loss in event["losses"]]


@pytest.fixture(scope="module")
def runner(place: Path):
    made = LocalRunner(place / "home")
    wait_until(made.ready)
    yield made
    made.close()
    assert made.waiting_pid is None


def test_forked_runs_learn_what_a_run_in_this_process_learns_and_end_alone(runner, place, finished):
    runs = [new_run(place), new_run(place)]
    handles = [runner.submit(run.folder, 1) for run in runs]
    assert len({os.getpgid(handle.pid) for handle in handles} | {os.getpgid(runner.waiting_pid)}) == 3
    for run, handle in zip(runs, handles):
        wait_until(lambda handle=handle: runner.poll(handle) is not None)
        assert runner.poll(handle) == 0, run.log_tail()
        assert losses(run) == pytest.approx(losses(finished), rel=1e-5) and len(losses(run)) == STEPS
        runner.reap(handle)
        assert not marked(handle.token)
    assert runs[0].result()["seconds"]["starting"] < finished.result()["seconds"]["loading"] + 5


def test_a_killed_child_is_told_and_leaves_nothing(runner, place):
    run = new_run(place, steps=100_000)
    handle = runner.submit(run.folder, 1)
    wait_until(lambda: run.progress().step > 0)
    assert handle.pid in marked(handle.token), "it is found by its token, which it did not begin with"
    os.kill(handle.pid, signal.SIGSEGV)
    wait_until(lambda: runner.poll(handle) is not None)
    assert runner.poll(handle) == -signal.SIGSEGV
    runner.reap(handle)
    assert not marked(handle.token)


def test_a_run_outlives_the_fork_server_and_the_next_gets_another(runner, place):
    run, before = new_run(place, steps=100_000), runner.waiting_pid
    handle = runner.submit(run.folder, 1)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: run.progress().step > 0)
    assert runner.poll(handle) is None
    wait_until(runner.ready)
    assert runner.waiting_pid not in (None, before)
    following = new_run(place)
    second = runner.submit(following.folder, 1)
    wait_until(lambda: runner.poll(second) == 0)
    runner.cancel(handle, "kill")
    wait_until(lambda: runner.poll(handle) is not None)
    runner.reap(handle)


def test_a_run_learns_the_same_whoever_watches(runner, place, finished):
    with Supervisor(place / "home", runner, slots=1, replay=False) as supervisor:
        feed = Feed(supervisor, RunListCache(supervisor.runs, supervisor), Identity(place), lambda: "")
        job = supervisor.submit(finished.config())
        over = threading.Event()

        def watch() -> None:
            page = TestClient(Starlette(routes=[feed.route()]))
            while not over.is_set():
                assert page.get("/live", params={"run": job.id, "all": "1"}).status_code == 200

        pages = [threading.Thread(target=watch) for _ in range(4)]
        for page in pages:
            page.start()
        wait_for(supervisor, job.id, "done")
        over.set()
        for page in pages:
            page.join()
        assert losses(supervisor.runs.get(job.id)) == pytest.approx(losses(finished), rel=1e-5)


def test_all_die_with_the_server(place):
    run = new_run(place, steps=100_000)
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from lora_playground.jobs.runner import LocalRunner\n"
        "runner = LocalRunner(Path(sys.argv[1]))\n"
        "while not runner.ready(): time.sleep(0.1)\n"
        "print(runner.submit(Path(sys.argv[2]), 1).token, runner.waiting_pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(place / "home"), str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        token, waiting = server.stdout.readline().split()
        wait_until(lambda: run.progress().step > 0)
        server.kill()
    wait_until(lambda: not marked(token) and not alive(int(waiting)))


def test_imports_that_fail_leave_workers_that_start_alone(tmp_path, place, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "peft.py").write_text("raise ImportError('broken on purpose')")
    runner = LocalRunner(tmp_path)
    try:
        began = time.monotonic()
        wait_until(runner.ready)
        assert runner._forks.broken and time.monotonic() - began < 170
        assert "broken on purpose" in (tmp_path / "worker.log").read_text()
    finally:
        runner.close()


def test_a_job_waits_in_the_queue_until_a_worker_is_ready(home) -> None:
    fake = FakeRunner()
    with Supervisor(home, fake, slots=1, replay=False, admit=lambda *_: []) as queue:
        fake.is_ready = False
        jobs = [queue.submit(config("quick")) for _ in range(2)]
        queue.cancel(jobs[0].id)
        assert not fake.started and [queue.job(job.id).state for job in jobs] == ["cancelled", "queued"]
        fake.is_ready = True
        wait_for(queue, jobs[1].id, "done")
