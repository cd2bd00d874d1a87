"""Who may change a run that nobody here has started."""

from pathlib import Path

import pytest

from lora_playground.errors import JobError, RunError
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.models.sources import SHARED_VARIABLE
from tests.jobs.support import FakeRunner, config, wait_until


@pytest.mark.parametrize("through_queue", [True, False])
def test_a_run_of_nobody_is_the_operators_on_a_shared_server(
    home: Path, monkeypatch: pytest.MonkeyPatch, through_queue: bool
) -> None:
    fake = FakeRunner()
    with Supervisor(home, fake, admit=lambda *_: []) as queue:
        id = queue.submit(config()).id if through_queue else queue.runs.create(config()).id
        if through_queue:
            wait_until(lambda: fake.started)
            fake.finish(1)
            wait_until(lambda: queue.job(id).state == "done")
        monkeypatch.setenv(SHARED_VARIABLE, "1")
        for visitor in ("ann", ""):
            for ask in (queue.delete, queue.resume, queue.job):
                with pytest.raises(JobError, match="only whoever runs it"):
                    ask(id, visitor)
        assert queue.job(id).id == id, "everybody may look at it"
        monkeypatch.delenv(SHARED_VARIABLE)
        queue.job(id, "ann")  # on one's own machine it is anybody's
        monkeypatch.setenv(SHARED_VARIABLE, "1")
        queue.delete(id)
        with pytest.raises(RunError):
            queue.runs.get(id)
