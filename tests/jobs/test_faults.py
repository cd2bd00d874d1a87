"""Real worker processes that fail in every way: each ends as one failed job, leaves nothing, and the next job runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_playground.errors import JobError
from lora_playground.jobs import watch
from lora_playground.jobs.runner import LocalRunner
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.runs import RunStore
from tests.jobs.support import STUB, alive, config, marked, wait_for, wait_until


def submit(supervisor: Supervisor, script: str) -> str:
    return supervisor.submit(config(script)).id


def handle_of(supervisor: Supervisor, id: str) -> dict[str, Any]:
    """The recorded handle; a fast worker may have begun before a slow disk has taken it."""

    def recorded() -> dict[str, Any] | None:
        row = supervisor.store.get(id)
        return row.handle if row is not None else None

    wait_until(recorded)
    return recorded() or {}


def worker_of(supervisor: Supervisor, id: str) -> int:
    return handle_of(supervisor, id)["pid"]


def started(supervisor: Supervisor, id: str) -> None:
    wait_until(lambda: supervisor.runs.get(id).events()[0])


FAILURES = [
    ("oom", "oom", "Halve batch_tokens"),
    ("nan", "nan", "step 3"),
    ("full", "disk", "disk is full"),
    ("limit 1000", "disk", "disk is full"),
    ("crash", "killed", "SIGSEGV"),
    ("log 100; exit 3", "error", "exit status 3"),
    ("exit 0", "error", "without a result"),
    ("boom", "error", "ValueError: something odd"),
]


def test_each_failure_has_its_code_and_log_and_the_next_job_runs(stubbed: Supervisor) -> None:
    ids = [stubbed.submit(config(script), owner=script).id for script, _, _ in FAILURES]
    last = submit(stubbed, "loss 2; save 0")
    wait_for(stubbed, last, "done")
    for id, (script, code, words) in zip(ids, FAILURES, strict=True):
        job = wait_for(stubbed, id, "failed")
        error = stubbed.runs.get(id).error()
        assert error is not None and job.error_code == code == error["code"], script
        assert words in (job.error_message or "") and words in error["message"], script
        assert job.resumable == (code != "nan"), "from NaN nothing goes on"
        assert error["log"] and len(error["log"]) <= 40, script
        if "log 100" in script:
            assert error["log"][-2:] == ["line 99", "leaving early"] and len(error["log"]) == 40
    with pytest.raises(JobError, match="same numbers again"):
        stubbed.resume(ids[1])


def test_kill_9_in_mid_step(stubbed: Supervisor) -> None:
    id = submit(stubbed, "loss 3; child; block 60")
    wait_until(lambda: stubbed.job(id).step == 3)
    os.kill(worker_of(stubbed, id), signal.SIGKILL)
    job = wait_for(stubbed, id, "failed")
    assert job.error_code == "killed" and "SIGKILL" in (job.error_message or "")
    assert stubbed.runs.get(id).state() == "failed"


def test_sigterm_from_outside_is_an_interruption(stubbed: Supervisor) -> None:
    id = submit(stubbed, "loss 1; block 60")
    started(stubbed, id)
    os.kill(worker_of(stubbed, id), signal.SIGTERM)
    assert "by the system" in (wait_for(stubbed, id, "interrupted").error_message or "")


@pytest.mark.parametrize("script", ["sleep 600", "deaf; child; stray; block 600"])
def test_stop_ends_everything(stubbed: Supervisor, script: str) -> None:
    id = submit(stubbed, script)
    started(stubbed, id)
    token = handle_of(stubbed, id)["token"]
    assert stubbed.cancel(id).stopping
    stubbed.cancel(id)
    job = wait_for(stubbed, id, "cancelled")
    assert not marked(token) and job.error_code == "cancelled"


def test_stop_waits_for_a_slow_step_and_its_checkpoint(stubbed: Supervisor) -> None:
    id = submit(stubbed, f"loss 3; block {watch.KILL_AFTER + 1}; checkpoint 3; sleep 600")
    wait_until(lambda: stubbed.job(id).step == 3)
    stubbed.cancel(id)
    wait_for(stubbed, id, "cancelled")
    assert (stubbed.runs.get(id).checkpoints / "step-3").is_dir()


def test_stop_kills_a_worker_whose_step_does_not_end(stubbed: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "STEP_PATIENCE", 0.5)
    id = submit(stubbed, "loss 3; deaf; block 600")
    wait_until(lambda: stubbed.job(id).step == 3)
    stubbed.cancel(id)
    wait_for(stubbed, id, "cancelled")


def test_stop_while_saving_leaves_all_or_nothing(stubbed: Supervisor) -> None:
    slow = submit(stubbed, "save 60")
    wait_for(stubbed, slow, "saving")
    stubbed.cancel(slow)
    wait_for(stubbed, slow, "cancelled")
    folder = stubbed.runs.get(slow).folder
    assert not list(folder.glob("*.tmp")) and not (folder / "adapter").exists()
    quick = submit(stubbed, "save 0; block 60")
    wait_until(lambda: (stubbed.runs.get(quick).folder / "adapter").exists())
    stubbed.cancel(quick)
    wait_for(stubbed, quick, "cancelled")
    assert (stubbed.runs.get(quick).folder / "adapter" / "adapter_model.safetensors").read_bytes() == b"weights"


def test_a_worker_that_hangs_is_stalled(home: Path) -> None:
    home.mkdir()
    with Supervisor(
        home, LocalRunner(home, STUB, warm=False), slots=1, replay=False, admit=lambda *_: [], stall_seconds=1
    ) as supervisor:
        id = submit(supervisor, "loss 1; deaf; block 60")
        assert wait_for(supervisor, id, "failed").error_code == "stalled"


def test_resume_goes_on_from_the_last_checkpoint(stubbed: Supervisor) -> None:
    id = submit(stubbed, "loss 5; checkpoint 5; first 60; loss 9")
    wait_until(lambda: (stubbed.runs.get(id).checkpoints / "step-5").exists())
    os.kill(worker_of(stubbed, id), signal.SIGKILL)
    wait_for(stubbed, id, "failed")
    run = stubbed.runs.get(id)
    with open(run.events_path, "ab") as file:
        file.write(b'{"type":"loss","ste')  # torn, as a dying writer leaves it
    (run.checkpoints / "step-7.tmp").mkdir()
    assert stubbed.resume(id).attempt == 2
    wait_for(stubbed, id, "done")
    steps = [step for event in run.history() if event["type"] == "loss" for step in event["steps"]]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert run.events()[0][-1]["attempt"] == 2


SERVER = """
import sys, time
from pathlib import Path
from lora_playground.config import RunConfig
from lora_playground.jobs import watch
from lora_playground.jobs.runner import LocalRunner
from lora_playground.jobs.supervisor import Supervisor
home = Path(sys.argv[1])
home.mkdir(exist_ok=True)
supervisor = Supervisor(home, LocalRunner(home, sys.argv[3:], warm=True), slots=1, replay=False, admit=lambda *_: [])
supervisor.start()
for title in sys.argv[2].split("|"):
    supervisor.submit(RunConfig.parse({"title": title}))
print("ready", flush=True)
time.sleep(120)
"""


def serve(home: Path, scripts: str) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(home), scripts, *STUB], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    server.stdout.close()
    return server


def test_kill_9_of_the_server_in_mid_job(home: Path) -> None:
    server = serve(home, "loss 5; checkpoint 5; deaf; child; first 60|loss 2")
    first, second = sorted(run.id for run in RunStore(home).list())
    run = RunStore(home).get(first)
    wait_until(lambda: (run.checkpoints / "step-5").exists() and run.alive())
    server.kill()
    server.wait()
    wait_until(lambda: not run.alive())  # its worker goes with it, before any new server looks
    with Supervisor(
        home, LocalRunner(home, STUB, warm=False), slots=1, replay=False, admit=lambda *_: []
    ) as supervisor:
        assert supervisor.job(first).state == "interrupted"
        wait_for(supervisor, second, "done")
        supervisor.resume(first)
        assert wait_for(supervisor, first, "done").attempt == 2
        losses = [step for event in run.history() if event["type"] == "loss" for step in event["steps"]]
        assert losses == [1, 2, 3, 4, 5]


def test_a_second_server_process_refuses(home: Path) -> None:
    server = serve(home, "sleep 60")
    try:
        second = subprocess.run(
            [sys.executable, "-c", SERVER, str(home), "", *STUB], capture_output=True, text=True, timeout=60
        )
        assert second.returncode != 0 and f"process {server.pid}" in second.stderr
        assert RunStore(home).list()[0].alive() or alive(server.pid)
    finally:
        server.kill()
        server.wait()


def test_closing_the_server_interrupts_and_leaves_no_process(home: Path) -> None:
    home.mkdir()
    supervisor = Supervisor(home, LocalRunner(home, STUB), slots=1, replay=False, admit=lambda *_: [])
    supervisor.start()
    id = submit(supervisor, "loss 2; deaf; child; block 60")
    wait_until(lambda: supervisor.job(id).step == 2)
    token = handle_of(supervisor, id)["token"]
    supervisor.close()
    supervisor.close()
    assert not marked(token)
    with Supervisor(home, LocalRunner(home, STUB, warm=False), slots=1, replay=False, admit=lambda *_: []) as again:
        assert again.job(id).state == "interrupted"
