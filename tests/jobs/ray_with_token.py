"""A process of its own for `test_ray_token`: two nodes that ask for a token, two runs on them, who is refused.

Prints one JSON value. Ray reads the token once a process, so the tests' own process cannot take part.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from lora_playground.config import RunConfig
from lora_playground.jobs.ray_runner import on_ray
from tests.checkpoints import make_checkpoint
from tests.waiting import wait_until

JOIN = """
import sys
from lora_playground.errors import JobError
from lora_playground.jobs.ray_runner import connect
try:
    connect(sys.argv[1])
    print("joined")
except JobError as error:
    print(error)
"""


def config(base: Path, seed: int) -> RunConfig:
    training = {"steps": 4, "batch_tokens": 128, "seed": seed}
    data = {"train_rows": 24, "rehearsal": 0.0}
    return RunConfig.parse({"model": {"source": str(base)}, "training": training, "data": data})


def joining(address: str, home: Path, **environment: str) -> str:
    """What somebody with this environment is told who joins the cluster."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    given = plain | {"HOME": str(home)} | environment
    done = subprocess.run([sys.executable, "-c", JOIN, address], env=given, capture_output=True, text=True, timeout=120)
    return done.stdout.strip()


def listening() -> list[str]:
    """The addresses at which this process and all that descend from it listen."""
    found = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ended meanwhile
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN:
                    found.add(one.laddr.ip.removeprefix("::ffff:"))
    return sorted(found)


def main(home: Path) -> dict[str, Any]:
    """What was seen."""
    here = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args={**here, "include_dashboard": False})
    cluster.add_node(**here)
    try:
        refused = [
            joining(cluster.address, home),
            joining(cluster.address, home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 64),
            joining(cluster.address, home, RAY_AUTH_MODE="token"),
        ]
        with on_ray(home, cluster.address) as supervisor:
            base = make_checkpoint(home / "base")
            jobs = [supervisor.submit(config(base, seed), "ann", fresh=True).id for seed in (0, 1)]
            wait_until(lambda: all(supervisor.job(id).ended for id in jobs), "both runs")
            heard = listening()
            states = [supervisor.job(id).state for id in jobs]
            losses = [len(supervisor.runs.get(id).progress().losses) for id in jobs]
            return {"refused": refused, "states": states, "losses": losses, "listening": heard,
                    "slots": supervisor.slots}  # fmt: skip
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
