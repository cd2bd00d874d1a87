"""The files of a finished federated run: the global update, each client's own update, and the result's `federated`
part.

A run can be made of a client's own update, so that chat, spectrum and export can show it beside the global one. No
torch and no training here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lora_playground.analysis.plain_lora import write_plain_lora
from lora_playground.analysis.update import Update, load_updates, save_updates
from lora_playground.errors import RunError
from lora_playground.federated.pairs import Pair, compress, stack
from lora_playground.federated.rounds import State
from lora_playground.federated.strategies.base import Factors
from lora_playground.models.catalogue import is_conv1d
from lora_playground.runs import Run, RunStore
from lora_playground.runs.files import publish, write_json

FOLDER = "clients"


def global_updates(state: State) -> list[Update]:
    """The global ΔW of every module against the pristine W, as factors of the least rank."""
    return [_update(module, state.server.update(module)) for module in state.server.factors]


def summary(state: State) -> dict[str, Any]:
    """The `federated` part of a run's result."""
    last = state.history[-1] if state.history else {}
    return {
        "rounds": state.server.round,
        "bytes": {"up": state.up, "down": state.down},
        "clients": list(state.last),
        **{name: last.get(name) for name in ("error", "rank", "score", "loss")},
    }


def client_updates(state: State, factors: Factors) -> list[Update]:
    """A client's ΔW against the pristine W after its last training, which began from the base of the round before."""
    base = [change for round_, change in state.server.merged if round_ < state.last_round]
    return [
        _update(module, stack([change[module] for change in base if module in change] + [factor.pair]))
        for module, factor in factors.items()
    ]


def save_clients(run: Run, state: State) -> list[str]:
    """Writes `clients/<number>.safetensors` for every client that sent a message in the last round; returns their
    names."""
    folder, staged = run.folder / FOLDER, run.folder / f"{FOLDER}.tmp"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    for name, factors in state.last.items():
        save_updates(client_updates(state, factors), staged / f"{number_of(name)}.safetensors")
    publish(staged, folder)
    return list(state.last)


def number_of(name: str) -> int:
    """3 for 'client 3'."""
    return int(name.rsplit(" ", 1)[-1])


def kept_clients(run: Run) -> list[str]:
    """Names of the clients whose own update is stored in a run."""
    numbers = sorted(int(path.stem) for path in (run.folder / FOLDER).glob("*.safetensors") if path.stem.isdigit())
    return [f"client {number}" for number in numbers]


def as_run(store: RunStore, run: Run, name: str) -> Run:
    """A run that holds one client's own adapter; a second call returns the same run. Raises RunError."""
    source = run.folder / FOLDER / f"{number_of(name)}.safetensors"
    if not source.is_file():
        known = ", ".join(kept_clients(run)) or "none"
        raise RunError(f"{name} of run {run.id} has no adapter of its own; kept are: {known}.")
    mark = run.folder / FOLDER / f"{number_of(name)}.run"
    if mark.is_file():
        try:
            return store.get(mark.read_text(encoding="utf-8").strip())
        except RunError:
            pass  # that run has been deleted
    config = run.config()
    made = store.create(config.model_copy(update={"title": f"{config.label}, {name} alone"[:80], "federated": None}))
    updates = load_updates(source)
    save_updates(updates, made.update_path)
    write_adapter(updates, made.adapter, config.model.source)
    whole = run.result() or {}
    result = {key: whole[key] for key in ("fingerprint", "device", "precision") if key in whole}
    write_json(made.result_path, result | {"state": "done", "federated_client": {"run": run.id, "client": name}})
    mark.write_text(made.id, encoding="utf-8")
    return made


def _update(module: str, pair: Pair) -> Update:
    B, A = compress(pair)
    return Update(module, B=B, A=A)


def write_adapter(updates: list[Update], folder: Path, base: str) -> None:
    """Writes an update of the base `base` as a plain LoRA in PEFT's format."""
    write_plain_lora(updates, folder, base=base, fan_in_fan_out=is_conv1d(base))
