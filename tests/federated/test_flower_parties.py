"""Real parties on one machine, as docs/federated.md tells it: a superlink, two supernodes and `flwr run` as processes.

They import torch anew for every message, so this takes minutes and runs on demand: `FLOWER_PARTIES=1 pytest ...`.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_clients import config_of, make_trainer

from lora_playground.analysis.update import load_updates
from lora_playground.federated.clients import global_updates, kept_clients
from lora_playground.federated.simulation import begin, parties, simulate
from lora_playground.federated.strategies import get_strategy
from lora_playground.runs import RunStore
from tests.waiting import wait_until

pytest.importorskip("flwr", reason="Flower is optional: pip install -r requirements-federated.txt")
pytestmark = [
    pytest.mark.skipif(not os.environ.get("FLOWER_PARTIES"), reason="takes minutes: set FLOWER_PARTIES=1"),
    pytest.mark.timeout(1200),
]
ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def started(place: Path, environment: dict[str, str], *command: str) -> Iterator[subprocess.Popen]:
    """A process of Flower's that is ended with what it has started; its log lies in `place`."""
    with open(place / f"{command[-1].split('=')[-1].strip('-')}.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def network(place: Path, clients: int) -> Iterator[dict[str, str]]:
    """A superlink and its nodes; gives the environment in which `flwr run` finds it by the name 'parties'."""
    link, *nodes = free_ports(1 + clients)
    flower = place / "flower"
    flower.mkdir()
    (flower / "config.toml").write_text(
        f'[superlink]\ndefault = "parties"\n\n[superlink.parties]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    own = {"FLWR_HOME": str(flower), "FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    own |= {"PATH": os.pathsep.join([str(TOOLS), os.environ["PATH"]]), "HF_HUB_OFFLINE": "1"}
    environment = os.environ | own
    with contextlib.ExitStack() as stack:
        server = [str(TOOLS / "flower-superlink"), "--insecure", "--port", str(link)]
        running = [
            stack.enter_context(started(place, environment, *server, "--disable-runtime-dependency-installation"))
        ]
        reach(link, running[0])
        for number, port in enumerate(nodes):
            node = [str(TOOLS / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{link}"]
            node += ["--port", str(port), "--node-config", f"partition-id={number}"]
            running.append(stack.enter_context(started(place, environment, *node)))
        yield environment


def reach(port: int, process: subprocess.Popen) -> None:
    """Waits until something listens at the port."""

    def listens() -> bool:
        assert process.poll() is None, "the superlink has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2):
            return True
        return False

    wait_until(listens, "an answer of the superlink")


def by_simulation(place: Path, config: Any) -> Any:
    """The same run by turns in this process, on one thread as the parties have it."""
    trainer = make_trainer(place, config)
    trainer.threads = 1
    federated = config.federated
    strategy = get_strategy(federated.strategy)
    who = parties([4] * federated.clients, [len(examples) for examples in trainer.clients], trainer)
    state = begin(strategy, who, trainer, config.training.seed)
    assert simulate(strategy, who, trainer, state, federated.rounds, 0.0, lambda event: None, lambda: False)
    trainer.close()
    return state


def test_parties_in_processes_of_their_own_give_the_same_global_update(place: Path, tmp_path: Path) -> None:
    """FLoRA on a tiny language model: two rounds, each client's base changed by what the other sent."""
    config = config_of(place, "flora")
    (tmp_path / "federated.json").write_text(config.model_dump_json())
    home = tmp_path / "home"
    home.mkdir()
    (home / "uploads").symlink_to(place / "home" / "uploads")
    with network(tmp_path, 2) as environment:
        run = [str(TOOLS / "flwr"), "run", str(ROOT / "examples" / "flower"), "parties", "--stream"]
        run += ["-c", f"config='{tmp_path / 'federated.json'}' home='{home}'"]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=900)
    logs = "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + logs
    (found,) = RunStore(home).list()
    assert found.state() == "done", done.stdout[-3000:] + logs
    rounds = [event for event in found.history() if event["type"] == "round"]
    assert [event["round"] for event in rounds] == [1, 2] and all(len(event["weights"]) == 2 for event in rounds)
    assert kept_clients(found) == ["client 1", "client 2"] and (found.adapter / "adapter_config.json").is_file()
    state = by_simulation(place, config)
    assert found.result()["federated"]["bytes"] == {"up": state.up, "down": state.down}
    wanted = {update.name: update.matrix() for update in global_updates(state)}
    for update in load_updates(found.update_path):
        expected = wanted.pop(update.name)
        assert np.linalg.norm(update.matrix() - expected) <= 1e-5 * np.linalg.norm(expected)
    assert not wanted
    json.dumps(rounds, allow_nan=False)
