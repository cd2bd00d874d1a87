"""The Flower app for language models: reads a run's config, makes each client's trainer, and writes a run folder.

`python -m lora_playground.federated.flower_app run.json` runs it in Flower's simulation engine on this machine;
`examples/flower` is the same app for `flwr run`, with each party on its own machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lora_playground.variants  # noqa: F401  (a config is read by its variant's schema)
from lora_playground.analysis.update import save_updates
from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.federated.clients import global_updates, save_clients, summary, write_adapter
from lora_playground.federated.config import check, client_ranks
from lora_playground.federated.flower import Plan, Site, client_app, run_engine, server_app
from lora_playground.federated.rounds import State
from lora_playground.runs import Run, RunStore
from lora_playground.runs.files import publish, write_json


def read_config(settings: Mapping[str, Any]) -> RunConfig:
    """The RunConfig in the entry `config` of Flower's run config: the path of a JSON file, or the JSON text itself."""
    given = str(settings.get("config", ""))
    if not given:
        raise ConfigError("config", given, "name a run's config.json with a federated section: config='/path/run.json'")
    text = given if given.lstrip().startswith("{") else Path(given).expanduser().read_text(encoding="utf-8")
    config = RunConfig.parse_json(text)
    check(config)
    return config


def home_of(settings: Mapping[str, Any]) -> Path | None:
    """The home in the entry `home` of Flower's run or node config; None if there is none."""
    given = str(settings.get("home", ""))
    return Path(given).expanduser() if given else None


def make_site(context: Any, settings: Mapping[str, Any]) -> Site:
    """One client, with its part of the dataset, or its own dataset if the node config names one.

    Args:
        context: Flower's. Its node config can have `partition-id` (the client's number), `dataset`, `home`, and
            `threads` to train with; clients on one machine should not each use all cores.
        settings: replaces Flower's run config, which is empty if the engine is started from Python.
    """
    from lora_playground.federated.local import LocalTrainer
    from lora_playground.federated.preparation import prepare_clients
    from lora_playground.models.loading import load_base

    settings = {**settings, **context.run_config}
    config = read_config(settings)
    number = int(context.node_config["partition-id"])
    home = RunStore(home_of(context.node_config) or home_of(settings)).home
    own = str(context.node_config.get("dataset", ""))
    ranks = client_ranks(config)
    if number >= len(ranks):
        raise ConfigError("partition-id", number, f"there are {len(ranks)} clients, numbered 0 to {len(ranks) - 1}")
    base = load_base(config.model, dtype=config.training.precision)
    data = get_dataset(own or config.data.dataset, home)
    embedded = config.model.embedded
    held = prepare_clients(base.tokenizer, data, _alone(config) if own else config, embedded)
    mine = held.examples[0 if own else number]
    examples = [mine if k == number else [] for k in range(len(ranks))]
    threads = int(context.node_config.get("threads", 0))
    trainer = LocalTrainer(base, config, examples, held.shared.rehearsal, held.shared.share, threads=threads)
    return Site(number, trainer, ranks[number], len(examples[number]))


def _alone(config: RunConfig) -> RunConfig:
    """The config with a single client, which has all rows."""
    assert config.federated is not None
    section = config.federated.model_copy(update={"clients": 1, "partition": "iid", "ranks": None})
    return config.model_copy(update={"federated": section})


class ServerRun:
    """The server's run folder: gets events during the rounds, and the global adapter at the end."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.run: Run | None = None

    def plan(self, context: Any) -> Plan:
        """Creates the run and returns the server's settings."""
        settings = {**self.settings, **context.run_config}
        config = read_config(settings)
        federated = config.federated
        assert federated is not None
        self.run = RunStore(home_of(settings)).create(config)
        self.run.begin(1)
        self.emit({"type": "phase", "phase": "training"})
        own = ("strategy", "clients", "rounds", "drop_out", "energy", "damping")
        return Plan(seed=config.training.seed, **{name: getattr(federated, name) for name in own})

    def emit(self, event: dict[str, Any]) -> None:
        """Appends an event to the run."""
        assert self.run is not None
        self.run.append(event)

    def finish(self, state: State, context: Any) -> None:
        """Saves the global update, its adapter and the clients' own updates, and last the result."""
        run = self.run
        assert run is not None
        self.emit({"type": "phase", "phase": "saving"})
        updates = global_updates(state)
        staged, adapter = run.folder / "update.safetensors.tmp", run.folder / "adapter.tmp"
        save_updates(updates, staged, {"run": run.id})
        write_adapter(updates, adapter, run.config().model.source)
        size = sum(path.stat().st_size for path in adapter.iterdir())
        publish(staged, run.update_path)
        publish(adapter, run.adapter)
        save_clients(run, state)
        result = {"state": "done", "steps": state.step, "tokens": state.tokens, "adapter_bytes": size}
        result |= {"score": None, "forgetting": None, "samples": [], "federated": summary(state)}
        write_json(run.result_path, result)


def apps(settings: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    """(ServerApp, ClientApp)."""
    known = dict(settings or {})
    run = ServerRun(known)
    return server_app(run.plan, run.finish, run.emit), client_app(partial(make_site, settings=known))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a config in Flower's simulation engine."""
    parser = argparse.ArgumentParser(prog="python -m lora_playground.federated.flower_app", description=main.__doc__)
    parser.add_argument("config", type=Path, help="a run's config.json with a federated section")
    parser.add_argument("--home", default="", help="where runs and uploads lie")
    given = parser.parse_args(arguments)
    try:
        settings = {"config": given.config.read_text(encoding="utf-8"), "home": given.home}
        config = read_config(settings)
        assert config.federated is not None
        run_engine(*apps(settings), config.federated.clients)
    except (PlaygroundError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
