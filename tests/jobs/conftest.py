"""Fixtures of the tests of jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_playground.jobs.runner import LocalRunner
from lora_playground.jobs.supervisor import Supervisor
from tests.jobs.support import STUB, marked


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def stubbed(home: Path) -> Iterator[Supervisor]:
    """A started supervisor whose jobs are stubs in real processes; afterwards none of them may be left."""
    home.mkdir()
    runner = LocalRunner(home, STUB, warm=False)
    spawned: list[str] = []
    spawn = runner._spawn

    def noted():
        process = spawn()
        spawned.append(process.handle.token)
        return process

    runner._spawn = noted  # type: ignore[method-assign]
    with Supervisor(home, runner, slots=1, replay=False, admit=lambda *_: [], stall_seconds=60) as supervisor:
        yield supervisor
    assert not [pid for token in spawned for pid in marked(token)]
