"""What the first gradient foretells of an update: G₀ = ∂L/∂W on the first training batches, before anything is learned,
beside the directions that the run then learned (arXiv 2602.06385). It loads torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_playground.analysis.low_rank import nonzero, sketched_svd
from lora_playground.analysis.spectra import EXACT_SIDE, update_svd
from lora_playground.analysis.update import Update, load_updates
from lora_playground.errors import RunError
from lora_playground.runs import Run, RunStore

if TYPE_CHECKING:
    import torch

SHOWN = 32
"""Singular values of each kept."""
FORETOLD = 0.5
"""A direction is foretold where so much of it lies, on both sides, within as many leading directions of G₀ as of ΔW."""
Report = Callable[[int, int], None]


def forecast(store: RunStore, id: str, report: Report = lambda *_: None) -> dict[str, Any]:
    """The first gradient beside what a run learned.

    Returns:
        run, label, `modules`: {name: see `beside`}; over all modules `foretold`, `of`: directions, and the means of
        `reads`, `writes` and of what chance gives.

    Raises:
        RunError: the run has no update of matrices by module, or its dataset is gone.
    """
    run = store.get(id)
    run.require_update()
    updates = [update for update in load_updates(run.update_path) if update.of_matrix]
    grads = first_gradients(run, store, [update.name for update in updates], report)
    modules = {u.name: beside(u, grads[u.name]) for u in updates if u.name in grads}
    if not modules:
        raise RunError(f"Run {run.id} changes no linear module by its name, so there is no gradient to lay beside it.")
    foretold = sum(one["foretold"] for one in modules.values())
    of = sum(len(one["reads"]) for one in modules.values())
    told = {"run": run.id, "label": run.label, "modules": modules, "foretold": foretold, "of": of}
    for side in ("reads", "writes"):
        told[side] = float(np.mean([share for one in modules.values() for share in one[side]]))
        told[f"{side}_chance"] = float(np.mean([one[f"{side}_chance"] for one in modules.values()]))
    return told


def beside(update: Update, G: np.ndarray) -> dict[str, Any]:
    """One module.

    Args:
        update: ΔW (m, n). G: the first gradient, of that shape.

    Returns:
        `gradient`, `learned`: singular values, each over its largest, at most SHOWN; `reads`, `writes`: for each
        learned direction the share ‖P·u‖² within as many leading right or left directions of G as ΔW has;
        `reads_chance`, `writes_chance`: that of a random direction; `foretold`: how many reach FORETOLD on both sides.
    """
    U, values, Vt = update_svd(update)
    k = min(nonzero(values), SHOWN)
    P, sizes, Q = _svd(G, k)
    writes = np.square(P[:, :k].T @ U[:, :k]).sum(axis=0) if k else np.zeros(0)
    reads = np.square(Q[:k] @ Vt[:k].T).sum(axis=0) if k else np.zeros(0)
    return {
        "gradient": _shares(sizes), "learned": _shares(values[:k]),
        "reads": [round(float(x), 4) for x in reads], "writes": [round(float(x), 4) for x in writes],
        "reads_chance": k / G.shape[1], "writes_chance": k / G.shape[0],
        "foretold": int(np.sum((reads >= FORETOLD) & (writes >= FORETOLD))),
    }  # fmt: skip


def _svd(G: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if min(G.shape) <= EXACT_SIDE:
        return np.linalg.svd(np.asarray(G, dtype=np.float64), full_matrices=False)
    return sketched_svd(G, max(k, SHOWN), np.random.default_rng(0))


def _shares(values: np.ndarray) -> list[float]:
    top = float(values[0]) if values.size and values[0] > 0 else 1.0
    return [float(f"{value / top:.4g}") for value in values[:SHOWN]]


def first_gradients(run: Run, store: RunStore, names: list[str], report: Report) -> dict[str, np.ndarray]:
    """∂L/∂W (out, in) of these modules, of the mean loss on answers over four batches of eight training rows."""
    from lora_playground.data.catalogue import get_dataset
    from lora_playground.data.preparation import prepare
    from lora_playground.jobs.execution import start_batches
    from lora_playground.models.linear import is_conv1d, linear_shape
    from lora_playground.models.loading import load_base
    from lora_playground.models.placed_update import named_modules
    from lora_playground.variants.data_start import model_inputs

    config = run.config()
    base = load_base(config.model.model_copy(update={"quantisation": "none"}), dtype="float32")
    data = get_dataset(config.data.dataset, store.home)
    prepared = prepare(base.tokenizer, data, config.data, config.training.seed, config.model.embedded)
    batches = start_batches(prepared, base.tokenizer.pad_token_id)
    modules = {n: m for n, m in named_modules(base.model).items() if n in set(names) and linear_shape(m)}
    for parameter in base.model.parameters():
        parameter.requires_grad_(False)
    weights: dict[str, torch.nn.Parameter] = {name: module.weight for name, module in modules.items()}  # type: ignore[misc]
    for weight in weights.values():
        weight.requires_grad_(True)
    for number, batch in enumerate(batches):
        base.model(**model_inputs(batch, base.model, labels=True)).loss.backward()
        report(number + 1, len(batches))
    return {
        name: (weight.grad.T if is_conv1d(modules[name]) else weight.grad).float().cpu().numpy() / len(batches)
        for name, weight in weights.items()
        if weight.grad is not None
    }
