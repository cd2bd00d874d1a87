"""The same run by the simulation and by Flower; skipped where the optional requirement is not installed.

Flower's own ClientApp and ServerApp run twice: called in this process, and by Flower's simulation engine (ray).
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_clients import SHAPES, LinearTrainer

from lora_playground.federated import rounds
from lora_playground.federated.rounds import State
from lora_playground.federated.simulation import begin, parties, simulate
from lora_playground.federated.strategies import STRATEGIES, get_strategy

pytest.importorskip("flwr", reason="Flower is optional: pip install -r requirements-federated.txt")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [40, 10, 25]


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's runtime tells a process about itself before an app runs in it."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def make_site(context: Any) -> Any:
    from lora_playground.federated.flower import Site

    number = int(context.node_config["partition-id"])
    return Site(number, LinearTrainer(3, seed=5), rank=4, examples=EXAMPLES[number])


def by_simulation(name: str, rounds: int, drop_out: float) -> tuple[State, list[dict]]:
    trainer = LinearTrainer(3, seed=5)
    who = parties([4, 4, 4], EXAMPLES, trainer)
    strategy = get_strategy(name)
    state = begin(strategy, who, trainer, 5)
    events: list[dict] = []
    assert simulate(strategy, who, trainer, state, rounds, drop_out, events.append, lambda: False)
    return state, events


class InProcess:
    """What the server needs of a Grid, with each client's app called at once; a node can be made to forget or fail."""

    def __init__(self, app: Any, clients: int) -> None:
        from flwr.app import Context, RecordDict

        self.app, self.forget, self.fail = app, set[tuple[int, int]](), set[tuple[int, int]]()
        self.fresh = lambda node: Context(
            run_id=1, node_id=node, node_config={"partition-id": node - 100}, state=RecordDict(), run_config={}
        )
        self.contexts = {100 + k: self.fresh(100 + k) for k in range(clients)}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Iterable[Any]:
        from flwr.app import Error, Message

        replies = []
        for letter in messages:
            node = letter.metadata.dst_node_id
            round_ = int(letter.metadata.group_id or 0)
            if (node, round_) in self.forget:
                self.contexts[node] = self.fresh(node)
            if (node, round_) in self.fail:
                replies.append(Message(Error(code=0, reason="no power"), reply_to=letter))
            else:
                replies.append(self.app(letter, self.contexts[node]))
        return replies


def in_process(
    name: str, rounds: int, drop_out: float, site: Any = make_site, **trouble: set[tuple[int, int]]
) -> tuple[State, list[dict]]:
    from lora_playground.federated.flower import Plan, client_app, serve

    grid = InProcess(client_app(site), 3)
    grid.__dict__.update(trouble)
    events: list[dict] = []
    plan = Plan(name, 3, rounds, seed=5, drop_out=drop_out)
    return serve(grid, plan, events.append), events  # type: ignore[arg-type]


def agree(one: tuple[State, list[dict]], other: tuple[State, list[dict]]) -> None:
    for module in SHAPES:
        (B, A), (C, D) = one[0].server.update(module), other[0].server.update(module)
        assert np.linalg.norm(B @ A - C @ D) <= 1e-5 * np.linalg.norm(C @ D)
    assert (one[0].up, one[0].down, one[0].step) == (other[0].up, other[0].down, other[0].step)
    rounds = [[e for e in events if e["type"] == "round"] for _, events in (one, other)]
    for key in ("weights", "left_out", "bytes"):
        assert [event[key] for event in rounds[0]] == [event[key] for event in rounds[1]]


def test_nothing_of_ours_phones_home() -> None:
    """Asked in a fresh process, since Flower reads this once, when it is imported."""
    code = (
        "import lora_playground.federated.flower, os\n"
        "from flwr.supercore.telemetry import FLWR_TELEMETRY_ENABLED as on\n"
        "print(on, os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_flower_apps_give_the_same_global_factors_as_the_simulation(name: str) -> None:
    agree(in_process(name, 4, 0.3), by_simulation(name, 4, 0.3))


@pytest.mark.parametrize("name", ["flora", "fedsb", "rolora"])
def test_a_client_that_was_restarted_gets_everything_again(name: str) -> None:
    state, events = in_process(name, 4, 0.0, forget={(101, 3)})
    rounds = [event for event in events if event["type"] == "round"]
    assert rounds[2]["left_out"] == {"client 2": "had been restarted and gets everything again"}
    assert rounds[3]["left_out"] == {} and set(rounds[3]["weights"]) == {"client 1", "client 2", "client 3"}
    assert np.isfinite(rounds[3]["error"])
    expected, _ = by_simulation(name, 2, 0.0)
    assert state.server.round == 4 and expected.server.round == 2


def test_a_client_that_was_away_for_long_starts_again_from_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLoRA, client 3 away in rounds 3 to 9: what it missed is wider than a matrix, so it gets one sum of all."""
    away = lambda who, drop_out, seed, round_: [n for n in who if n != "client 3" or not 2 < round_ < 10]  # noqa: E731
    monkeypatch.setattr(rounds, "draw_present", away)
    agree(in_process("flora", 10, 0.0), by_simulation("flora", 10, 0.0))


def test_a_client_that_fails_is_left_out_with_its_reason() -> None:
    _, events = in_process("fedit", 2, 0.0, fail={(102, 1)})
    rounds = [event for event in events if event["type"] == "round"]
    assert rounds[0]["left_out"] == {"client 3": "failed (no power)"} and rounds[1]["left_out"] == {}


@pytest.mark.parametrize(("trouble", "says"), [("spoil", "not finite"), ("cut", "of shape")])
def test_a_client_that_sends_nan_or_wrong_shapes_is_left_out_with_its_reason(trouble: str, says: str) -> None:
    from lora_playground.federated.flower import Site

    def site(context: Any) -> Site:
        number = int(context.node_config["partition-id"])
        return Site(number, LinearTrainer(3, seed=5, **{trouble: {1: {2}}}), rank=4, examples=EXAMPLES[number])

    state, events = in_process("flora", 3, 0.0, site)
    rounds = [event for event in events if event["type"] == "round"]
    assert [list(event["left_out"]) for event in rounds] == [[], ["client 2"], []]
    assert says in rounds[1]["left_out"]["client 2"]
    assert all(np.isfinite(part).all() for module in SHAPES for part in state.server.update(module))


def by_engine(name: str, rounds: int, drop_out: float) -> tuple[State, list[dict]]:
    from lora_playground.federated.flower import Plan, client_app, run_engine, server_app

    kept: list[State] = []
    events: list[dict] = []
    plan = Plan(name, 3, rounds, seed=5, drop_out=drop_out)
    server = server_app(lambda context: plan, lambda state, context: kept.append(state), events.append)
    run_engine(server, client_app(make_site), 3)
    return kept[0], events


@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.environ.get("FLOWER_ENGINE"), reason="starts ray, which is slow: set FLOWER_ENGINE=1")
def test_flowers_engine_gives_the_same_global_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLoRA with drop-out: stacks merged into every client's base, rounds missed and caught up with."""
    pytest.importorskip("ray", reason="Flower's engine needs ray: pip install -r requirements-federated.txt")
    paths = [str(ROOT), str(ROOT / "tests" / "federated"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    agree(by_engine("flora", 4, 0.3), by_simulation("flora", 4, 0.3))
