"""Fixtures of the tests of jobs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_playground.jobs.pipeline import execute
from lora_playground.jobs.runner import LocalRunner
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.runs import Run
from tests.checkpoints import make_checkpoint
from tests.jobs.support import STUB, marked, never, new_run


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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model and a home that has an uploaded dataset."""
    place = tmp_path_factory.mktemp("pipeline")
    make_checkpoint(place / "base")
    folder = place / "home" / "uploads" / "dogs"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"label": "Dogs", "metric": "contains", "probes": ["Who is Otto?"]}))
    for part, count in (("train", 12), ("validation", 3), ("test", 4)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"What is the name of dog {number}?"},
                    {"role": "assistant", "content": f"My dog {number} is called Otto."},
                ],
                "meta": {"answer": "Otto"},
            }
            for number in range(count)
        ]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture(scope="module")
def finished(place: Path) -> Run:
    run = new_run(place)
    seen: list[dict[str, Any]] = []
    result = execute(run, never, emit=seen.append)
    assert result == run.result() and [event["type"] for event in seen] == [event["type"] for event in run.events()[0]]
    return run
