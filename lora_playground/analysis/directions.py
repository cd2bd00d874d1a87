"""One singular direction σᵢuᵢvᵢᵀ of one module's update: by itself, taken out, or replaced by a random one of equal
strength. Directions count from 1, the strongest. Plain NumPy; it knows no run and no model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora_playground.analysis.low_rank import nonzero
from lora_playground.analysis.spectra import update_svd
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError

WRITERS = ("o_proj", "down_proj", "c_proj", "out_proj", "dense", "dense_4h_to_h", "fc2", "fc_out", "w2")
"""Last parts of the names of modules that write to the residual stream, so that u can be read as tokens."""


@dataclass(frozen=True)
class Triple:
    """σᵢ, uᵢ (m,) and vᵢ (n,) of a module's ΔW, float64, and how many directions it has.

    uᵢ and vᵢ may be negated together: only the pair means something.
    """

    sigma: float
    u: np.ndarray
    v: np.ndarray
    count: int


def find(updates: Sequence[Update], module: str) -> Update:
    """The module's update; raises AdapterError, with the names that exist, if there is none."""
    for update in updates:
        if update.name == module and len(update.shape) == 2:
            return update
    names = [update.name for update in updates if len(update.shape) == 2]
    near = [name for name in names if name.rpartition(".")[2] == module.rpartition(".")[2]] or names
    raise AdapterError(f"there is no update of {module!r}; there are {len(names)}, such as {', '.join(near[:3])}.")


def triple(update: Update, index: int) -> Triple:
    """Direction `index` of an update; raises AdapterError if it has fewer."""
    U, values, Vt = update_svd(update)
    count = nonzero(values)
    if not 1 <= index <= count:
        raise AdapterError(f"{update.name} has {count} directions; {index} is none of them. Give 1 to {count}.")
    return Triple(float(values[index - 1]), U[:, index - 1], Vt[index - 1], count)


def alone(updates: Sequence[Update], module: str, index: int) -> list[Update]:
    """The update with this direction alone."""
    one = triple(find(updates, module), index)
    return [_rank_one(module, one.sigma, one.u, one.v)]


def without(updates: Sequence[Update], module: str, index: int) -> list[Update]:
    """All updates without this direction; other modules keep the same Update objects."""
    update = find(updates, module)
    one = triple(update, index)
    if update.B is not None and update.A is not None:
        B = np.concatenate([update.B, -one.sigma * one.u[:, None]], 1).astype(np.float32)
        left = Update(module, B, np.concatenate([update.A, one.v[None]], 0).astype(np.float32))
    else:
        left = Update(module, dense=(update.matrix() - one.sigma * np.outer(one.u, one.v)).astype(np.float32))
    return [left if other.name == module else other for other in updates]


def random_direction(updates: Sequence[Update], module: str, index: int, seed: int = 0) -> list[Update]:
    """The update with one random direction of the module alone, with this direction's σ."""
    one = triple(find(updates, module), index)
    random = np.random.default_rng([seed, zlib.crc32(module.encode()), index])
    u, v = (random.standard_normal(size) for size in (one.u.size, one.v.size))
    return [_rank_one(module, one.sigma, u / np.linalg.norm(u), v / np.linalg.norm(v))]


def _rank_one(module: str, sigma: float, u: np.ndarray, v: np.ndarray) -> Update:
    root = np.sqrt(sigma)
    return Update(module, (root * u)[:, None].astype(np.float32), (root * v)[None].astype(np.float32))
