"""A federated run as a Flower app: server and clients on different machines, or in Flower's simulation engine.

The only module that imports `flwr`, which is optional. It carries messages, and stores what each client must remember
between rounds. Trainers train, and strategies aggregate.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_playground.errors import ConfigError, PlaygroundError, TrainingError
from lora_playground.federated.aggregation import Party
from lora_playground.federated.pairs import Pair, bounded, stack
from lora_playground.federated.rounds import Order, Reply, State, first_state, play_round
from lora_playground.federated.simulation import Trainer
from lora_playground.federated.strategies import get_strategy
from lora_playground.federated.strategies.base import Factors, Message, Strategy, arrays_of, factors_of

# Flower and Ray send usage statistics unless these variables, which they read when they are imported, forbid it.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict
    from flwr.app import Message as Letter
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
except ImportError as missing:
    raise PlaygroundError(
        "Flower is not installed. Install the optional requirements: pip install -r requirements-federated.txt"
    ) from missing

GREETING_SECONDS = 120.0
STORE_BYTES = 256 * 2**20
"""Ray's shared memory. Factors are small; Ray's default would be a third of the machine's memory."""

PATIENT = {
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
}
"""Environment variables that give Ray's own processes more time to start, which takes long on a busy machine."""


@dataclass(frozen=True)
class Plan:
    """The server's settings.

    Attributes:
        drop_out: probability that the server leaves a client out of a round, besides those that fail by themselves.
        energy, damping: options of strategies, see `strategies.florist` and `strategies.lorafair`.
        timeout: seconds to wait for the clients of a round; later ones count as dropped out.
    """

    strategy: str
    clients: int
    rounds: int
    seed: int = 0
    drop_out: float = 0.0
    energy: float = 0.99
    damping: float = 0.01
    timeout: float = 3600.0

    def make(self) -> Strategy:
        """The strategy with its options."""
        return get_strategy(self.strategy, energy=self.energy, damping=self.damping)


@dataclass(frozen=True)
class Site:
    """One client: its number, trainer, rank, and number of examples."""

    client: int
    trainer: Trainer
    rank: int
    examples: int


# --- client -----------------------------------------------------------------------------------------------------------


def client_app(make_site: Callable[[Context], Site]) -> ClientApp:
    """A ClientApp that calls `make_site` once in each process."""
    app = ClientApp()
    sites: dict[int, Site] = {}

    def site_of(context: Context) -> Site:
        if context.node_id not in sites:
            sites[context.node_id] = make_site(context)
        return sites[context.node_id]

    @app.query()
    def query(letter: Letter, context: Context) -> Letter:
        site = site_of(context)
        asked = str(letter.content["config"]["ask"])
        if asked == "gradients":
            return Letter(RecordDict({"arrays": _pack(site.trainer.gradients(site.client))}), reply_to=letter)
        return Letter(RecordDict({"config": ConfigRecord(_introduce(site))}), reply_to=letter)

    @app.train()
    def train(letter: Letter, context: Context) -> Letter:
        return Letter(_train(site_of(context), letter.content, context), reply_to=letter)

    return app


def _introduce(site: Site) -> dict[str, Any]:
    shapes = site.trainer.shapes()
    return {
        "client": site.client,
        "rank": site.rank,
        "s": float(site.trainer.scaling(site.rank)),
        "examples": site.examples,
        "modules": list(shapes),
        "out": [int(shape[0]) for shape in shapes.values()],
        "in": [int(shape[1]) for shape in shapes.values()],
    }


def _train(site: Site, content: RecordDict, context: Context) -> RecordDict:
    """One round on a client: reads the message, trains, answers, and stores in the context what the next round
    needs."""
    order = content["config"]
    round_, seed, since = int(order["round"]), int(order["seed"]), int(order["since"])
    strategy = Plan(**json.loads(str(order["plan"]))).make()
    s = site.trainer.scaling(site.rank)
    held, base, known = _recall(context, s)
    if held is None or known != since:
        if since > strategy.first:
            # The client was restarted; the server will send everything in the next round.
            return RecordDict({"metrics": MetricRecord({"forgot": 1})})
        held = strategy.local(strategy.start(site.trainer.shapes(), site.rank, s, seed), site.rank, s)
        base = {}
    down = _unpack(content["arrays"])
    base = _merged(base, down)
    factors = strategy.receive(held, down, round_, seed)
    done = site.trainer.train(site.client, factors, base, strategy.trained(round_), round_, lambda event: None)
    _remember(context, factors, base, round_ - 1)
    up = strategy.upload(done.factors, round_)
    numbers = {"loss": float(done.loss), "steps": int(done.steps), "tokens": int(done.tokens), "forgot": 0}
    return RecordDict({"arrays": _pack(up), "metrics": MetricRecord(numbers)})


def _merged(base: Mapping[str, Pair], down: Message) -> dict[str, Pair]:
    """The sum of the base's changes so far and those in a message."""
    total = dict(base)
    for key in down:
        head, _, part = key.rpartition(".")
        module, _, mark = head.rpartition(".")
        if part == "B" and mark.startswith("base") and mark[4:].isdigit():
            pair = down[key], down[f"{head}.A"]
            total[module] = bounded(stack([total[module], pair])) if module in total else pair
    return total


def _remember(context: Context, factors: Factors, base: Mapping[str, Pair], since: int) -> None:
    kept = arrays_of("held", factors)
    for module, (B, A) in base.items():
        kept[f"base/{module}/B"], kept[f"base/{module}/A"] = B, A
    context.state["arrays"] = _pack(kept)
    context.state["since"] = ConfigRecord({"since": since})


def _recall(context: Context, s: float) -> tuple[Factors | None, dict[str, Pair], int]:
    """(factors, base changes, the round of both) that this client stored; (None, {}, 0) if it has stored nothing."""
    if "since" not in context.state:
        return None, {}, 0
    kept = _unpack(context.state["arrays"])
    held = factors_of("held", kept, s)
    base = {m: (kept[f"base/{m}/B"], kept[f"base/{m}/A"]) for m in held if f"base/{m}/B" in kept}
    return held, base, int(context.state["since"]["since"])  # type: ignore[arg-type]


# --- server -----------------------------------------------------------------------------------------------------------


def server_app(
    make_plan: Callable[[Context], Plan],
    finish: Callable[[State, Context], None],
    emit: Callable[[dict[str, Any]], None] = lambda event: None,
) -> ServerApp:
    """A ServerApp that plays all rounds and calls `finish` with the last state. It needs neither torch nor a model."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        finish(serve(grid, make_plan(context), emit), context)

    return app


def serve(grid: Grid, plan: Plan, emit: Callable[[dict[str, Any]], None]) -> State:
    """Waits for the clients, plays the rounds, and returns the state after the last one.

    Raises:
        TrainingError: too few clients connected, or none has data. ConfigError: they do not fit each other or the
            strategy.
    """
    strategy = plan.make()
    who, nodes, shapes = _greet(grid, plan)
    state = first_state(strategy, who, shapes, lambda name: _gradients(grid, nodes[name], name, plan), plan.seed)

    def by_letters(orders: Iterator[Order]) -> list[Reply]:
        return _carry(grid, nodes, plan, orders)

    while state.server.round < plan.rounds:
        play_round(strategy, who, state, plan.drop_out, by_letters, lambda server: {"loss": None, "score": None}, emit)
    return state


def _carry(grid: Grid, nodes: Mapping[str, int], plan: Plan, orders: Iterator[Order]) -> list[Reply]:
    """Sends all orders of a round at once, and reads the replies that come within the time limit."""
    letters = []
    for order in orders:
        told = {"round": order.round, "seed": plan.seed, "since": order.since, "plan": json.dumps(vars(plan))}
        content = RecordDict({"arrays": _pack(order.message), "config": ConfigRecord(told)})
        node = nodes[order.client]
        letters.append(Letter(content, dst_node_id=node, message_type="train", group_id=str(order.round)))
    names = {node: name for name, node in nodes.items()}
    back = grid.send_and_receive(letters, timeout=plan.timeout) if letters else []
    return [_read_reply(names[letter.metadata.src_node_id], letter) for letter in back]


def _read_reply(name: str, letter: Letter) -> Reply:
    if letter.has_error():
        return Reply(name, None, problem=f"failed ({letter.error.reason})")
    numbers: Mapping[str, Any] = letter.content["metrics"]
    if numbers["forgot"]:
        return Reply(name, None, problem="had been restarted and gets everything again", restarted=True)
    message = _unpack(letter.content["arrays"])
    return Reply(name, message, float(numbers["loss"]), int(numbers["steps"]), int(numbers["tokens"]))


def run_engine(server: ServerApp, client: ClientApp, clients: int, cpus: int = 1) -> None:
    """Runs both apps in Flower's simulation engine on this machine, one client at a time on `cpus` cores."""
    for name, value in PATIENT.items():
        os.environ.setdefault(name, value)
    from flwr.simulation import run_simulation

    resources: Any = {
        "client_resources": {"num_cpus": cpus, "num_gpus": 0.0},
        "init_args": {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES},
    }
    run_simulation(server, client, num_supernodes=clients, backend_config=resources)


def _greet(grid: Grid, plan: Plan) -> tuple[dict[str, Party], dict[str, int], dict[str, tuple[int, int]]]:
    """Waits for the clients; returns the parties, their nodes, and the modules' shapes."""
    deadline = time.monotonic() + GREETING_SECONDS
    nodes = list(grid.get_node_ids())
    while len(nodes) < plan.clients and time.monotonic() < deadline:
        time.sleep(0.5)
        nodes = list(grid.get_node_ids())
    if len(nodes) < plan.clients:
        raise TrainingError(
            f"{len(nodes)} of {plan.clients} clients came within {GREETING_SECONDS:.0f} s; start the others and try "
            "again."
        )
    letters = [_question("who", node) for node in nodes]
    who: dict[int, Party] = {}
    at: dict[int, int] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for reply in grid.send_and_receive(letters, timeout=plan.timeout):
        if reply.has_error():
            raise TrainingError(f"A client could not start: {reply.error.reason}")
        told: Mapping[str, Any] = reply.content["config"]
        number = int(told["client"])
        mine = {str(m): (int(o), int(i)) for m, o, i in zip(told["modules"], told["out"], told["in"], strict=True)}
        if number in who:
            raise ConfigError("partition-id", number, "two clients have this number; give each its own")
        if shapes and mine != shapes:
            raise ConfigError("model.source", number, "this client's base model has other modules than the others'")
        shapes = mine
        who[number] = Party(f"client {number + 1}", int(told["rank"]), float(told["s"]), int(told["examples"]))
        at[number] = reply.metadata.src_node_id
    order = sorted(who)
    return {who[k].name: who[k] for k in order}, {who[k].name: at[k] for k in order}, shapes


def _gradients(grid: Grid, node: int, name: str, plan: Plan) -> dict[str, np.ndarray]:
    """∇W of one client's examples."""
    for reply in grid.send_and_receive([_question("gradients", node)], timeout=plan.timeout):
        if not reply.has_error():
            return _unpack(reply.content["arrays"])
    raise TrainingError(f"{name} did not answer when asked for the gradient that Fed-SB starts from.")


def _question(ask: str, node: int) -> Letter:
    return Letter(RecordDict({"config": ConfigRecord({"ask": ask})}), dst_node_id=node, message_type="query")


def _pack(message: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({key: Array(np.ascontiguousarray(value)) for key, value in message.items()})


def _unpack(record: Any) -> Message:
    return {str(key): array.numpy() for key, array in record.items()}
