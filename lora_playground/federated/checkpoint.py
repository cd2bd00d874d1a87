"""Saves and loads a federated run's state, in two files: arrays in float64, and the rest as JSON. NumPy only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lora_playground.federated.pairs import Pair
from lora_playground.federated.rounds import State
from lora_playground.federated.strategies.base import Server, arrays_of, factors_of, scaling_of
from lora_playground.runs.files import publish, writing

_PLAIN = ("since", "up", "down", "step", "tokens", "history", "last_round")
"""Fields of a State that are stored in the JSON file unchanged."""


def save_state(state: State, folder: Path) -> Path:
    """Writes the folder `folder`/step-<n>/ atomically, and removes older ones; returns it."""
    final = folder / f"step-{state.step}"
    staged = folder / f"step-{state.step}.tmp"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        arrays = arrays_of("server", state.server.factors)
        for round_, change in state.server.merged:
            for module, (B, A) in change.items():
                arrays[f"merged/{round_}/{module}/B"], arrays[f"merged/{round_}/{module}/A"] = B, A
        for name, factors in state.last.items():
            arrays |= arrays_of(f"client/{name}", factors)
        save_file(
            {key: np.ascontiguousarray(value) for key, value in arrays.items()}, str(staged / "state.safetensors")
        )
        rest = {
            "round": state.server.round,
            "seed": state.server.seed,
            "s": scaling_of(state.server.factors),
            "client_s": {name: scaling_of(factors) for name, factors in state.last.items()},
            "changed": state.server.changed,
            "merged": [round_ for round_, _ in state.server.merged],
            **{name: getattr(state, name) for name in _PLAIN},
        }
        (staged / "state.json").write_text(json.dumps(rest), encoding="utf-8")
    publish(staged, final)
    for old in folder.glob("step-*"):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def load_state(folder: Path) -> State | None:
    """The newest readable state in a run's checkpoint folder; None if there is none."""
    found = [path for path in folder.glob("step-*") if path.suffix != ".tmp" and (path / "state.json").is_file()]
    for path in sorted(found, key=lambda entry: int(entry.name.split("-")[1]), reverse=True):
        try:
            rest = json.loads((path / "state.json").read_text(encoding="utf-8"))
            arrays = load_file(str(path / "state.safetensors"))
            return _state(rest, arrays)
        except (OSError, ValueError, KeyError, SafetensorError):
            continue
    return None


def _state(rest: dict, arrays: dict[str, np.ndarray]) -> State:
    merged: dict[int, dict[str, Pair]] = {round_: {} for round_ in rest["merged"]}
    for key in arrays:
        if key.startswith("merged/") and key.endswith("/B"):
            _, round_, module, _ = key.split("/")
            merged[int(round_)][module] = arrays[key], arrays[key[:-1] + "A"]
    server = Server(
        rest["round"],
        rest["seed"],
        factors_of("server", arrays, rest["s"]),
        tuple(sorted(merged.items(), key=lambda item: item[0])),
        rest["changed"],
    )
    last = {name: factors_of(f"client/{name}", arrays, s) for name, s in rest["client_s"].items()}
    return State(server, last=last, **{name: rest[name] for name in _PLAIN})
