"""The same run by the simulation and by Flower's engine; skipped where the optional requirement is not installed."""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is optional: pip install -r requirements-federated.txt")
pytest.importorskip("ray", reason="Flower's engine needs ray: pip install -r requirements-federated.txt")

ROOT = Path(__file__).resolve().parents[2]
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests" / "federated"), os.environ.get("PYTHONPATH", "")]
)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

from flwr.app import Context
from flwr.simulation import run_simulation
from linear_clients import SHAPES, LinearTrainer

from lora_playground.federated.aggregation import prepared
from lora_playground.federated.flower import Plan, Site, client_app, server_app
from lora_playground.federated.simulation import State, begin, parties, simulate

EXAMPLES = [40, 10, 25]


def make_site(context: Context) -> Site:
    number = int(context.node_config["partition-id"])
    return Site(number, LinearTrainer(3, seed=5), rank=4, examples=EXAMPLES[number])


def by_flower(name: str, rounds: int, drop_out: float) -> tuple[State, list[dict]]:
    kept: list[State] = []
    events: list[dict] = []
    plan = Plan(name, 3, rounds, seed=5, drop_out=drop_out)
    server = server_app(lambda context: plan, lambda state, context: kept.append(state), events.append)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 1}}
    run_simulation(server, client_app(make_site), num_supernodes=3, backend_config=resources)
    return kept[0], events


def by_simulation(name: str, rounds: int, drop_out: float) -> tuple[State, list[dict]]:
    trainer = LinearTrainer(3, seed=5)
    who = parties([4, 4, 4], EXAMPLES, trainer)
    strategy = prepared(name)
    state = begin(strategy, who, trainer, 5)
    events: list[dict] = []
    assert simulate(strategy, who, trainer, state, rounds, drop_out, events.append, lambda: False)
    return state, events


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["flora", "fedsb"])
def test_flower_and_the_simulation_give_the_same_global_factors(name: str) -> None:
    """FLoRA: stacks merged into every client's base, with drop-out; Fed-SB: a start that travels, and a core."""
    one, events = by_flower(name, 4, 0.3)
    other, expected = by_simulation(name, 4, 0.3)
    for module in SHAPES:
        (B, A), (C, D) = one.server.update(module), other.server.update(module)
        assert np.linalg.norm(B @ A - C @ D) <= 1e-5 * np.linalg.norm(C @ D)
    assert (one.up, one.down, one.step) == (other.up, other.down, other.step)
    rounds = [[e for e in some if e["type"] == "round"] for some in (events, expected)]
    assert [e["weights"] for e in rounds[0]] == [e["weights"] for e in rounds[1]]
    assert [e["left_out"] for e in rounds[0]] == [e["left_out"] for e in rounds[1]]
