"""The same run is trained once: who asks again gets it, as an entry of their own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_playground.config import RunConfig
from lora_playground.jobs.equal_runs import identity
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.runs import Run
from lora_playground.runs.files import write_json
from tests.jobs.support import FakeRunner, config, wait_for, wait_until


@pytest.fixture
def fake() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def queue(home: Path, fake: FakeRunner) -> Iterator[Supervisor]:
    with Supervisor(home, fake, slots=2, admit=lambda *_: []) as supervisor:
        yield supervisor


def train(queue: Supervisor, fake: FakeRunner, id: str) -> Run:
    """Lets a job end with what a run leaves."""
    wait_until(lambda: id in fake.started)
    number = fake.started.index(id) + 1
    run = fake.runs[number]
    run.append({"type": "loss", "steps": [1], "losses": [2.0], "learning_rates": [0.1]})
    run.adapter.mkdir()
    for path in (run.adapter / "adapter_model.safetensors", run.update_path):
        path.write_bytes(b"weights")
    run.answers_path.write_text("{}")
    result = {"state": "done", "attempt": run.attempt, "seconds": {"loading": 8.0, "training": 40.0}}
    write_json(run.result_path, result | {"scoring": {"rows": 4, "of": 4, "note": ""}})
    fake.status[number] = 0
    queue.dispatcher.poke()
    wait_for(queue, id, "done")
    return run


def test_who_asks_again_gets_the_run_as_their_own(queue: Supervisor, fake: FakeRunner) -> None:
    first = train(queue, fake, queue.submit(config("facts"), owner="ann").id)
    again = wait_for(queue, queue.submit(config("mine"), owner="bob").id, "done")
    run = queue.runs.get(again.id)
    assert fake.started == [first.id] and again.owner == "bob" and again.label == "mine"
    assert (run.result() or {})["replayed"] == {"run": first.id, "seconds": 48.0}
    assert queue.runs.progress(run).losses == [2.0] and run.update_path.samefile(first.update_path)
    run.append({"type": "message", "text": "mine alone"})
    assert not first.progress().messages
    queue.delete(first.id, owner="ann")
    assert run.update_path.read_bytes() == (run.adapter / "adapter_model.safetensors").read_bytes() == b"weights"
    third = wait_for(queue, queue.submit(config(), owner="eve").id, "done")
    assert (queue.runs.get(third.id).result() or {})["replayed"] == {"run": again.id, "seconds": 48.0}


def test_a_class_waits_for_one_run(queue: Supervisor, fake: FakeRunner) -> None:
    ids = [queue.submit(config(), owner=f"person {number}").id for number in range(6)]
    train(queue, fake, ids[0])
    for id in ids:
        wait_for(queue, id, "done")
    assert fake.started == ids[:1]


def test_if_the_first_one_fails_the_next_one_trains(queue: Supervisor, fake: FakeRunner) -> None:
    first, second = (queue.submit(config(), owner=owner).id for owner in ("ann", "bob"))
    wait_until(lambda: first in fake.started)
    fake.status[1] = -9
    train(queue, fake, second)
    assert queue.job(first).state == "failed" and fake.started == [first, second]


def test_fresh_trains_anyway_and_so_does_what_differs(queue: Supervisor, fake: FakeRunner) -> None:
    train(queue, fake, queue.submit(config()).id)
    train(queue, fake, queue.submit(config(), fresh=True).id)
    train(queue, fake, queue.submit(RunConfig.parse({"training": {"seed": 7}})).id)
    assert len(fake.started) == 3


def test_a_run_whose_scoring_was_cut_short_is_not_taken_over(queue: Supervisor, fake: FakeRunner) -> None:
    first = train(queue, fake, queue.submit(config()).id)
    result = first.result() or {}
    write_json(first.result_path, result | {"scoring": {"rows": 0, "of": 0, "note": "Scoring was cut short."}})
    train(queue, fake, queue.submit(config()).id)


def test_identity_follows_config_data_and_base(tmp_path: Path) -> None:
    folder = tmp_path / "uploads" / "mine"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    row = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"
    (folder / "train.jsonl").write_text(row)

    def of(**values: Any) -> str | None:
        return identity(RunConfig.parse({"data": {"dataset": "mine"}} | values), tmp_path)

    one = of()
    assert one is not None and one == of(title="another") and one != of(training={"seed": 5})
    (folder / "train.jsonl").write_text(2 * row)
    assert of() not in (None, one)
    assert of(training={"seconds": 30}) is None, "what a time budget allows differs from day to day"
    assert of(model={"source": "nobody/not-here"}) is None
