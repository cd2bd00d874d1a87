"""Equal runs on a Ray cluster of one node and of two, each a core of this machine: how long until all are done.

    python benchmarks/cluster.py [--runs 8] [--steps 40] [--json]

`ratio` is the makespan on two nodes over that on one. Each run has its own seed, so that none is played back.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def makespan(nodes: int, runs: int, steps: int) -> float:
    """Seconds from the first submit to the last result."""
    import ray
    from ray.cluster_utils import Cluster

    from lora_playground.config import RunConfig
    from lora_playground.jobs.ray_runner import on_ray

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    try:
        with on_ray(Path(tempfile.mkdtemp(prefix="cluster-")), cluster.address) as supervisor:
            began = time.monotonic()
            training = {"steps": steps, "batch_tokens": 256}
            jobs = [
                supervisor.submit(RunConfig.parse({"training": training | {"seed": seed}}), "", fresh=True).id
                for seed in range(runs)
            ]
            while not all(supervisor.job(id).ended for id in jobs):
                time.sleep(0.1)
            assert all(supervisor.job(id).state == "done" for id in jobs), [supervisor.job(id).state for id in jobs]
            return time.monotonic() - began
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    sys.path.insert(0, str(ROOT))
    one, two = (makespan(nodes, given.runs, given.steps) for nodes in (1, 2))
    told = {"runs": given.runs, "steps": given.steps, "one_node": one, "two_nodes": two, "ratio": two / one}
    print(json.dumps({key: round(value, 3) for key, value in told.items()}) if given.json else told)


if __name__ == "__main__":
    main()
