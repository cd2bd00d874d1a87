"""The singular values of a run's updates, as numbers and as a picture, and cutting a run to some of its directions.

It reads run folders with NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_playground.analysis.spectra import effective_rank, spectra, stable_rank
from lora_playground.analysis.truncation import Decomposition, Mode, Truncation
from lora_playground.analysis.update import Update, load_updates
from lora_playground.errors import ConfigError
from lora_playground.exchange.importing import derive, opened
from lora_playground.plots.png import scree_png
from lora_playground.plots.spectrum import short_name
from lora_playground.runs import Run, RunStore


def updates_of(run: Run) -> list[Update]:
    """A run's saved updates. Raises RunError if it has none."""
    run.require_update()
    return load_updates(run.update_path)


def _each(run: Run) -> Iterator[Update]:
    """Iterates over a run's updates; those of an imported adapter that is too large for chat are read from its file."""
    if not run.update_path.is_file() and "imported" in (run.result() or {}):
        yield from opened(run).updates()
    else:
        yield from updates_of(run)


def numbers(run: Run) -> dict[str, Any]:
    """{run, modules: [{name, shape, factored, singular_values (descending), effective_rank, stable_rank}]} of a run."""
    shapes: dict[str, tuple[list[int], bool]] = {}

    def noted() -> Iterator[Update]:
        for update in _each(run):
            shapes[update.name] = list(update.shape), update.factored
            yield update

    modules = [
        {
            "name": name,
            "shape": shapes[name][0],
            "factored": shapes[name][1],
            "singular_values": [float(value) for value in values],
            "effective_rank": float(effective_rank(values)),
            "stable_rank": float(stable_rank(values)),
        }
        for name, values in spectra(noted()).items()
    ]
    return {"run": run.id, "modules": modules}


def picture(run: Run, module: str = "") -> bytes:
    """The singular values of one module as a PNG; '' takes the module with the largest singular value.

    Raises:
        ConfigError: there is no such module; the message names the modules.
    """
    found = {entry["name"]: entry["singular_values"] for entry in numbers(run)["modules"]}
    if not isinstance(module, str) or (module not in found and module != ""):
        raise ConfigError("module", module, f"choose one of {', '.join(found)}, or give '' for the strongest")
    chosen = module or max(found, key=lambda name: max(found[name], default=0.0), default="")
    title = "Singular values of the update" + (f" · {short_name(chosen)}" if chosen else "")
    return scree_png(title, [(run.label, found.get(chosen, []))])


def cut(store: RunStore, run: Run, mode: Mode, k: int, first: int, last: int, strength: float, title: str) -> Run:
    """Makes a run with only some directions of every module's update, saved as a plain LoRA. For the arguments see
    `operations.Operations.cut`."""
    chosen = Truncation(mode, k, first, max(first, last), strength)
    left = Decomposition(updates_of(run)).truncate(chosen)
    return derive(store, run, left, title or f"{run.label}: {chosen.describe()}", {"cut": vars(chosen)})
