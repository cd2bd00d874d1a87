"""What the first gradient foretells of an update: G₀ = ∂L/∂W on the first training batches, before anything is learned,
beside the directions that the run then learned (arXiv 2602.06385). It loads torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_playground.analysis.low_rank import nonzero, sketched_svd
from lora_playground.analysis.moments import MOMENTS, moments
from lora_playground.analysis.spectra import EXACT_SIDE, update_svd
from lora_playground.analysis.update import load_updates
from lora_playground.errors import RunError
from lora_playground.runs import Run, RunStore

if TYPE_CHECKING:
    import torch

SHOWN = 32
"""The most directions of a module that are compared, and the most singular values that are returned."""
FORETOLD = 0.5
"""A learned direction counts as foretold if this share of both its singular vectors, or more, lies in the span of the
leading k directions of G₀, with k the number of directions of ΔW."""
Report = Callable[[int, int], None]
Svd = tuple[np.ndarray, np.ndarray, np.ndarray]
"""U (m, k), σ (k,) and Vt (k, n) of an update, descending."""


def forecast(store: RunStore, id: str, report: Report = lambda *_: None) -> dict[str, Any]:
    """The first gradient beside what a run learned.

    Returns:
        run, label; `modules`: {name: the fields of `beside`; `gradient`: singular values of G₀ over the largest;
        `reads_chance`, `writes_chance`: the shares that a random direction would have}; the fields of `over_all`;
        `reads_chance` and `writes_chance`: their means over the modules. `moments`: the updates that the run saved
        during training, compared in the same way, as [{`step`, `modules`: {name: the fields of `beside`}, and the
        fields of `over_all`}]; their `learned` is relative to the module's largest singular value after training.

    Raises:
        RunError: the run has no update of matrices by module, or its dataset is gone.
    """
    run = store.get(id)
    run.require_update()
    updates = [update for update in load_updates(run.update_path) if update.of_matrix]
    grads = first_gradients(run, store, [update.name for update in updates], report)
    learned = {u.name: update_svd(u) for u in updates if u.name in grads}
    if not learned:
        raise RunError(f"Run {run.id} changes no linear module by its name, so there is no gradient to lay beside it.")
    leading = {name: Leading.of(grads[name], svd) for name, svd in learned.items()}
    modules = {name: beside(svd, leading[name]) | leading[name].told for name, svd in learned.items()}
    told = {"run": run.id, "label": run.label, "modules": modules, **over_all(modules)}
    for side in ("reads_chance", "writes_chance"):
        told[side] = float(np.mean([one[side] for one in modules.values()]))
    told["moments"] = []
    for step, path in moments(run.folder / MOMENTS).items():
        then = {u.name: update_svd(u) for u in load_updates(path) if u.name in learned}
        found = {name: beside(svd, leading[name], float(learned[name][1][0])) for name, svd in then.items()}
        told["moments"].append({"step": step, "modules": found, **over_all(found)})
    return told


def over_all(modules: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Sums up what `beside` returned for each module: `foretold`: number of foretold directions; `of`: number of all
    directions; `reads`, `writes`: their means over all directions."""
    shares = {side: [share for one in modules.values() for share in one[side]] for side in ("reads", "writes")}
    return {
        "foretold": sum(one["foretold"] for one in modules.values()),
        "of": len(shares["reads"]),
        **{side: float(np.mean(values)) if values else 0.0 for side, values in shares.items()},
    }


@dataclass(frozen=True)
class Leading:
    """The leading directions of a first gradient G (m, n).

    Attributes:
        P, Q: left and right singular vectors, (m, k) and (k, n), at most SHOWN.
        told: `gradient`, `reads_chance` and `writes_chance` of the module, see `forecast`.
    """

    P: np.ndarray
    Q: np.ndarray
    told: dict[str, Any]

    @classmethod
    def of(cls, G: np.ndarray, learned: Svd) -> Leading:
        """The leading SHOWN directions of G, and what chance gives for the directions of the update `learned`."""
        k = _count(learned[1])
        P, sizes, Q = _svd(G, k)
        chances = {"reads_chance": k / G.shape[1], "writes_chance": k / G.shape[0]}
        return cls(P[:, :SHOWN], Q[:SHOWN], {"gradient": _shares(sizes), **chances})


def beside(learned: Svd, leading: Leading, top: float | None = None) -> dict[str, Any]:
    """One module's directions beside its first gradient.

    Args:
        learned: U (m, k), σ and Vt (k, n) of ΔW. top: what σ is divided by; None takes the largest of them.

    Returns:
        `learned`: singular values over `top`, at most SHOWN; `writes`: for each learned direction the share ‖Pᵀu‖² of
        its left singular vector u in the span of the leading k left directions of the gradient; `reads`: the same of
        the right ones, ‖Qv‖²; `foretold`: the number of directions for which both reach FORETOLD.
    """
    U, values, Vt = learned
    k = _count(values)
    writes = np.square(leading.P[:, :k].T @ U[:, :k]).sum(axis=0)
    reads = np.square(leading.Q[:k] @ Vt[:k].T).sum(axis=0)
    return {
        "learned": _shares(values[:k], top),
        "reads": [round(float(x), 4) for x in reads],
        "writes": [round(float(x), 4) for x in writes],
        "foretold": int(np.sum((reads >= FORETOLD) & (writes >= FORETOLD))),
    }


def _count(values: np.ndarray) -> int:
    """How many directions of an update are looked at."""
    return min(nonzero(values), SHOWN)


def _svd(G: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if min(G.shape) <= EXACT_SIDE:
        return np.linalg.svd(np.asarray(G, dtype=np.float64), full_matrices=False)
    return sketched_svd(G, max(k, SHOWN), np.random.default_rng(0))


def _shares(values: np.ndarray, top: float | None = None) -> list[float]:
    top = top or (float(values[0]) if values.size and values[0] > 0 else 1.0)
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
