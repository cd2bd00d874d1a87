"""What a server clears up at its start."""

import os
from pathlib import Path

from lora_playground.jobs.supervisor import Supervisor
from lora_playground.runs import RunStore
from tests.jobs.support import FakeRunner, config


def test_a_run_that_the_server_died_taking_is_gone_and_no_other(home: Path) -> None:
    store = RunStore(home)
    taken, begun, young = (store.create(config()) for _ in range(3))
    (taken.folder / "about.json.1234.tmp").write_text("{")
    (taken.folder / "identity").write_text("0")
    with begun.locked():
        pass  # the command line began it
    for run in (taken, begun):
        os.utime(run.folder, (1e9, 1e9))
    with Supervisor(home, FakeRunner(), slots=1, replay=False, admit=lambda *_: []) as supervisor:
        assert {run.id for run in store.list()} == {taken.id, begun.id, young.id}, "a new table knows no run"
        accepted = supervisor.submit(config()).id
    with Supervisor(home, FakeRunner(), slots=1, replay=False, admit=lambda *_: []):
        assert {run.id for run in store.list()} == {begun.id, young.id, accepted}
