"""Jobs on a real Ray cluster of two nodes on this machine: shared out, one lost in mid-run, gone on with, stopped.

No step waits for a run to end: on a busy machine either run may be far ahead when the other is looked at.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lora_playground.config import RunConfig
from lora_playground.errors import JobError
from lora_playground.jobs.failures import Stopped
from lora_playground.jobs.pipeline import execute
from lora_playground.jobs.ray_runner import on_ray
from lora_playground.jobs.supervisor import Supervisor
from tests.checkpoints import make_checkpoint
from tests.jobs.support import new_run, wait_for
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Two nodes with a core each; processes there find this checkout."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.other = made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def endless(place: Path) -> list[RunConfig]:
    """Two runs that nobody waits for the end of, with steps long enough that few of them are made meanwhile."""
    make_checkpoint(place / "larger", hidden=128, layers=4)
    made = [new_run(place, steps=100_000, seed=seed, checkpoint_every=5).config() for seed in (0, 1)]
    return [config.model_copy(update={"model": config.model.model_copy(update={"source": str(place / "larger")})})
            for config in made]  # fmt: skip


def losses(supervisor: Supervisor, id: str) -> list[float]:
    return supervisor.runs.get(id).progress().losses


def wait_for_losses(supervisor: Supervisor, id: str, count: int) -> None:
    """Waits until a run that must not end has more losses than `count`."""
    wait_until(lambda: len(losses(supervisor, id)) > count or supervisor.job(id).ended, f"{count} steps")
    assert len(losses(supervisor, id)) > count, f"{supervisor.job(id)} {supervisor.runs.get(id).log_tail()}"


def is_on(node, supervisor: Supervisor, id: str) -> bool:
    """Whether the process that a run's log names descends from a node's raylet."""
    pid = supervisor.runs.get(id).log_path.read_text().split("process ")[1].split()[0].rstrip(",")
    raylet = next(process.process.pid for process in node.all_processes["raylet"])
    return raylet in [parent.pid for parent in psutil.Process(int(pid)).parents()]


def alone(supervisor: Supervisor, config: RunConfig, steps: int) -> list[float]:
    """The first losses of that run in this process, undisturbed."""
    seen: list[float] = []

    def note(event: dict[str, Any]) -> None:
        seen.extend(event["losses"] if event["type"] == "loss" else ())

    with pytest.raises(Stopped):
        execute(supervisor.runs.create(config), lambda: len(seen) >= steps, emit=note)
    return seen[:steps]


@pytest.mark.timeout(600)
def test_a_lost_machine_interrupts_its_run_and_another_goes_on_to_the_same_losses(cluster, endless, place) -> None:
    with on_ray(place / "home", cluster.address) as supervisor:
        assert supervisor.slots == 2
        jobs = {supervisor.submit(config, "ann", fresh=True).id: config for config in endless}
        for id in jobs:
            wait_for_losses(supervisor, id, 12)
        lost = next(id for id in jobs if is_on(cluster.other, supervisor, id))
        (left,) = jobs.keys() - {lost}
        cluster.remove_node(cluster.other, allow_graceful=False)
        wait_for(supervisor, lost, "interrupted")
        assert "machine that it ran on is gone" in (supervisor.job(lost).error_message or "")
        before, kept = len(losses(supervisor, left)), len(losses(supervisor, lost))
        assert kept > 12, "what had come back stays"
        wait_for_losses(supervisor, left, before)
        supervisor.cancel(left, "ann")
        wait_for(supervisor, left, "cancelled")
        supervisor.resume(lost, "ann")
        wait_for_losses(supervisor, lost, kept + 5)
        supervisor.cancel(lost, "ann")
        wait_for(supervisor, lost, "cancelled")
        found = losses(supervisor, lost)
        assert supervisor.runs.get(lost).progress().attempt == 2
        assert found == pytest.approx(alone(supervisor, jobs[lost], len(found)), abs=1e-5)


def test_an_address_where_nothing_answers_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="No Ray cluster can be joined"):
        on_ray(tmp_path / "home", "127.0.0.1:1")
