"""Jobs on a real Ray cluster of two nodes on this machine: shared out, one lost in mid-run, gone on with."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_playground.config import RunConfig
from lora_playground.jobs.ray_runner import on_ray
from lora_playground.jobs.supervisor import Supervisor
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


def config(seed: int, steps: int) -> RunConfig:
    training = {"steps": steps, "batch_tokens": 128, "seed": seed, "checkpoint_every": 5}
    return RunConfig.parse({"training": training, "data": {"train_rows": 24, "rehearsal": 0.0}})


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


def node_of(supervisor: Supervisor, id: str) -> str:
    """The process that a run's log names."""
    log = supervisor.runs.get(id).log_path.read_text()
    return log.split("process ")[1].split()[0].rstrip(",")


def losses(supervisor: Supervisor, id: str) -> list[float]:
    return supervisor.runs.get(id).progress().losses


@pytest.mark.timeout(600)
def test_a_lost_machine_interrupts_its_run_and_another_goes_on_to_the_same_losses(cluster, tmp_path: Path) -> None:
    with on_ray(tmp_path / "home", cluster.address) as supervisor:
        assert supervisor.slots == 2
        jobs = [supervisor.submit(config(seed, 60), "ann", fresh=True).id for seed in (0, 1)]
        wait_until(lambda: all(len(losses(supervisor, id)) > 12 for id in jobs), "both to train at once")
        lost = next(id for id in jobs if is_on(cluster.other, node_of(supervisor, id)))
        cluster.remove_node(cluster.other, allow_graceful=False)
        wait_until(lambda: supervisor.job(lost).state == "interrupted", "the loss to be noticed")
        assert "machine that it ran on is gone" in (supervisor.job(lost).error_message or "")
        kept = len(losses(supervisor, lost))
        assert kept > 12, "what had come back stays"
        supervisor.resume(lost, "ann")
        done = lambda id: supervisor.job(id).state == "done"  # noqa: E731
        wait_until(lambda: all(map(done, jobs)), "both results")
        undisturbed = supervisor.submit(config([0, 1][jobs.index(lost)], 60), "ann", fresh=True).id
        wait_until(lambda: done(undisturbed), "the same run undisturbed")
        assert losses(supervisor, lost) == pytest.approx(losses(supervisor, undisturbed), abs=1e-5)
        assert supervisor.runs.get(lost).progress().attempt == 2


def is_on(node, pid: str) -> bool:
    """Whether a process descends from a node's raylet."""
    import psutil

    raylet = next(process.process.pid for process in node.all_processes["raylet"])
    return raylet in [parent.pid for parent in psutil.Process(int(pid)).parents()]


def test_stop_ends_a_job_there(cluster, tmp_path: Path) -> None:
    with on_ray(tmp_path / "home", cluster.address) as supervisor:
        job = supervisor.submit(config(0, 5000), "ann").id
        wait_until(lambda: len(losses(supervisor, job)) > 2, "it to train")
        supervisor.cancel(job, "ann")
        wait_until(lambda: supervisor.job(job).state == "cancelled", "the stop")


def test_an_address_where_nothing_answers_is_a_plain_error(tmp_path: Path) -> None:
    from lora_playground.errors import JobError

    with pytest.raises(JobError, match="No Ray cluster can be joined"):
        on_ray(tmp_path / "home", "127.0.0.1:1")
