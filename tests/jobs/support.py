"""What the tests of jobs share: a home, a stub worker, a fake runner, and a way to wait for a state."""

import signal
import sys
from pathlib import Path
from typing import Any

from lora_playground.config import RunConfig
from lora_playground.jobs.runner import Handle, descendants
from lora_playground.jobs.supervisor import Job, Supervisor
from lora_playground.machine.processes import started_at
from lora_playground.runs import Run, RunStore
from lora_playground.runs.files import write_json
from tests.waiting import wait_until

STUB = [sys.executable, str(Path(__file__).with_name("stub_worker.py"))]


class FakeRunner:
    """A runner without processes: a test says what each job does, by the run's title."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.status: dict[int, int | None] = {}
        self.runs: dict[int, Run] = {}
        self.cancelled: list[tuple[int, str]] = []
        self.prepared = 0
        self.is_ready = True

    def submit(self, folder: Path, attempt: int, gpu: str | None = None) -> Handle:
        number = len(self.started) + 1
        self.started.append(folder.name)
        self.runs[number], self.status[number] = Run(folder), None
        self.runs[number].begin(attempt)
        if self.runs[number].config().title == "quick":
            self.finish(number)
        return Handle(number)

    def finish(self, number: int, status: int = 0) -> None:
        if status == 0:
            write_json(self.runs[number].result_path, {"state": "done", "attempt": self.runs[number].attempt})
        self.status[number] = status

    def poll(self, handle: Handle) -> int | None:
        return self.status.get(handle.pid, -signal.SIGKILL)

    def cancel(self, handle: Handle, how: str) -> None:
        self.cancelled.append((handle.pid, how))
        if self.status.get(handle.pid, 0) is None:
            self.status[handle.pid] = 130

    def reap(self, handle: Handle) -> None:
        if self.status.get(handle.pid, 0) is None:
            self.status[handle.pid] = -signal.SIGKILL

    def cpu_seconds(self, handle: Handle) -> float | None:
        return None

    def ready(self) -> bool:
        return self.is_ready

    def prepare(self) -> None:
        self.prepared += 1

    def close(self) -> None:
        for number, status in self.status.items():
            if status is None:
                self.status[number] = -signal.SIGKILL


def config(title: str = "") -> RunConfig:
    return RunConfig.parse({"title": title})


def wait_for(supervisor: Supervisor, id: str, *states: str) -> Job:
    wait_until(lambda: supervisor.job(id).state in states or supervisor.job(id).ended)
    job = supervisor.job(id)
    assert job.state in states, f"{job} {supervisor.runs.get(id).log_tail()}"
    return job


def marked(token: str) -> list[int]:
    """Living processes that descend from the worker with that token."""
    return descendants(token)


def alive(pid: int) -> bool:
    return started_at(pid) > 0


STEPS = 6
"""Of a run on the tiny model."""


def new_run(place: Path, variant: str = "lora", **training: Any) -> Run:
    options = {"name": variant} | ({"rank": 4} if variant != "full" else {})
    data = {
        "model": {"source": str(place / "base")},
        "data": {"dataset": "dogs", "max_length": 64},
        "variant": options,
        "training": {"steps": STEPS, "batch_tokens": 128, "precision": "float32", "checkpoint_every": 2} | training,
    }
    return RunStore(place / "home").create(RunConfig.parse(data))


def never() -> bool:
    return False
