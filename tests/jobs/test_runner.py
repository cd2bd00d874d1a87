"""The contract of runners, on real processes and on the fake; then what only real processes can do wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lora_playground.jobs.runner import Handle, LocalRunner, Runner
from lora_playground.machine.processes import started_at
from lora_playground.runs import RunStore
from tests.jobs.support import STUB, FakeRunner, config, marked, wait_until


@pytest.fixture(params=["local", "fake"])
def runner(request, home: Path):
    home.mkdir()
    made: Runner = LocalRunner(home, STUB, warm=False) if request.param == "local" else FakeRunner()
    yield made
    made.close()


@pytest.fixture
def local(home: Path):
    home.mkdir()
    made = LocalRunner(home, STUB)
    yield made
    made.close()


def new_run(home: Path, title: str):
    return RunStore(home).create(config(title))


def test_a_run_ends_with_status_0_and_a_result(runner: Runner, home: Path) -> None:
    run = new_run(home, "quick")
    handle = runner.submit(run.folder, 1)
    wait_until(lambda: runner.poll(handle) is not None)
    assert runner.poll(handle) == 0 == runner.poll(handle)
    assert run.result() is not None
    runner.reap(handle)


@pytest.mark.parametrize("how", ["flag", "terminate", "kill"])
def test_cancel_ends_it_and_is_idempotent(runner: Runner, home: Path, how: str) -> None:
    run = new_run(home, "sleep 30")
    handle = runner.submit(run.folder, 1)
    if isinstance(runner, LocalRunner):
        wait_until(lambda: run.events()[0])
    assert runner.poll(handle) is None
    runner.cancel(handle, how)  # type: ignore[arg-type]
    runner.cancel(handle, how)  # type: ignore[arg-type]
    wait_until(lambda: runner.poll(handle) is not None)
    assert runner.poll(handle) != 0 and run.result() is None
    runner.cancel(handle, how)  # type: ignore[arg-type]
    runner.reap(handle)


def test_reap_is_idempotent_and_leaves_nothing(runner: Runner, home: Path) -> None:
    run = new_run(home, "deaf; child; stray; block 30")
    handle = runner.submit(run.folder, 1)
    if isinstance(runner, LocalRunner):
        wait_until(lambda: len(marked(handle.token)) >= 4)  # worker, watcher, child, stray
    runner.reap(handle)
    assert not marked(handle.token) or not handle.token
    assert runner.poll(handle) not in (None, 0)
    runner.reap(handle)


def test_a_handle_survives_being_written_down(runner: Runner, home: Path) -> None:
    handle = runner.submit(new_run(home, "sleep 30").folder, 1)
    assert Handle.from_dict(handle.to_dict()) == handle
    runner.reap(handle)


def test_reaping_from_another_server_process(local: LocalRunner, home: Path) -> None:
    run = new_run(home, "deaf; child; stray; block 30")
    handle = local.submit(run.folder, 1)
    wait_until(lambda: len(marked(handle.token)) >= 4)
    stranger = LocalRunner(home, STUB)
    stranger.reap(Handle.from_dict(handle.to_dict()))
    assert not marked(handle.token)


def test_a_recycled_process_number_is_not_killed(local: LocalRunner) -> None:
    bystander = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        wrong = [
            Handle(bystander.pid, started_at(bystander.pid) - 60, "nobody"),
            Handle(bystander.pid),
            Handle.from_dict({"pid": bystander.pid, "start_ticks": "1", "boot_id": "another", "token": "nobody"}),
        ]
        for handle in wrong:
            local.reap(handle)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_warm_worker_is_used_once_and_gets_the_run(local: LocalRunner, home: Path) -> None:
    local.prepare()
    local.prepare()
    assert local._ready is not None
    ready = local._ready.handle.pid
    run = new_run(home, "quick")
    handle = local.submit(run.folder, 1)
    assert handle.pid == ready and local._ready is None
    wait_until(lambda: local.poll(handle) is not None)
    assert f"process {ready}" in run.log_path.read_text()
    second = local.submit(new_run(home, "quick").folder, 1)
    assert second.pid != ready
    wait_until(lambda: local.poll(second) == 0)


def test_a_dead_warm_worker_is_replaced(local: LocalRunner, home: Path) -> None:
    local.prepare()
    assert local._ready is not None
    dead = local._ready
    os.killpg(dead.handle.pid, signal.SIGKILL)
    wait_until(lambda: dead.poll() is not None)
    handle = local.submit(new_run(home, "quick").folder, 1)
    assert handle.pid != dead.handle.pid
    wait_until(lambda: local.poll(handle) == 0)


def test_a_worker_that_cannot_start_is_a_plain_error(home: Path) -> None:
    from lora_playground.errors import JobError

    home.mkdir()
    runner = LocalRunner(home, ["/no/such/program"])
    with pytest.raises(JobError, match="No worker process can be started"):
        runner.submit(new_run(home, "quick").folder, 1)


def test_workers_die_with_the_server_even_with_strays(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    run = new_run(home, "deaf; child; stray; block 60")
    server = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from pathlib import Path\n"
            "from lora_playground.jobs.runner import LocalRunner\n"
            "runner = LocalRunner(Path(sys.argv[1]), sys.argv[3:])\n"
            "print(runner.submit(Path(sys.argv[2]), 1).token, flush=True)\n"
            "runner.prepare()\n"
            "print(runner._ready.handle.token, flush=True)\n"
            "time.sleep(60)\n",
            str(home),
            str(run.folder),
            *STUB,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    tokens = [server.stdout.readline().strip() for _ in range(2)]
    wait_until(lambda: len(marked(tokens[0])) >= 4 and len(marked(tokens[1])) >= 1)
    server.kill()
    server.wait()
    server.stdout.close()
    wait_until(lambda: not marked(tokens[0]) and not marked(tokens[1]))


def test_an_idle_worker_waits_without_polling(local: LocalRunner) -> None:
    local.prepare()
    assert local._ready is not None
    worker = psutil.Process(local._ready.handle.pid)

    def stands_still() -> bool:
        before = worker.num_ctx_switches()
        time.sleep(0.3)
        return worker.num_ctx_switches() == before

    wait_until(stands_still, "0.3 s in which the worker does nothing")
