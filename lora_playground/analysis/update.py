"""An update ΔW of one module, as factors or dense, and its file format. Plain NumPy; it knows no model and no torch.

A run keeps all its updates in one `update.safetensors`, from which chat, spectra, cut and export work alike for every
variant, with W pristine: `<module>.B` (out, k) and `<module>.A` (k, in) with ΔW = B·A (scaling folded in), or
`<module>.dense`. A dense update named after a module is in (out, in) layout, whatever the module's own; one named
after a parameter ('transformer.h.0.attn.c_attn.weight') keeps that parameter's own shape, (in, out) for a Conv1D.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file


@dataclass(frozen=True)
class Update:
    """ΔW of one module against the pristine W.

    Attributes:
        name: the base model's own module name ('model.layers.0.self_attn.q_proj'); for parameters that are not a
            Linear's weight (full fine-tuning: norms, embeddings, biases) the parameter's name.
        B, A: (out, k) and (k, in), ΔW = B·A in nn.Linear's layout (out, in), also for Conv1D modules; or None.
        dense: ΔW itself if it has no factors; or None. Named after a module it is (out, in), also for Conv1D; named
            after a parameter it has the parameter's own shape.
    """

    name: str
    B: np.ndarray | None = None
    A: np.ndarray | None = None
    dense: np.ndarray | None = None

    @property
    def factored(self) -> bool:
        """Whether the update is kept as factors."""
        return self.B is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ΔW: (out, in), or that of the parameter it is named after."""
        if self.B is not None and self.A is not None:
            return self.B.shape[0], self.A.shape[1]
        assert self.dense is not None
        return self.dense.shape

    @property
    def of_matrix(self) -> bool:
        """Whether it belongs to a module with a matrix (a linear layer, an embedding), not to a parameter by itself."""
        return len(self.shape) == 2 and not self.name.endswith((".weight", ".bias"))

    def matrix(self) -> np.ndarray:
        """ΔW, dense, in float64."""
        if self.B is not None and self.A is not None:
            return self.B.astype(np.float64) @ self.A.astype(np.float64)
        assert self.dense is not None
        return self.dense.astype(np.float64)


def save_updates(updates: Iterable[Update], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes updates to one safetensors file, float32."""
    tensors: dict[str, np.ndarray] = {}
    for update in updates:
        for part, array in (("B", update.B), ("A", update.A), ("dense", update.dense)):
            if array is not None:
                tensors[f"{update.name}.{part}"] = np.ascontiguousarray(array, dtype=np.float32)
    save_file(tensors, str(path), metadata=metadata)


def layer_order(name: str) -> list[tuple[int, str]]:
    """A sort key for modules in the order of the model's layers: layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def matrix_ranks(path: Path) -> dict[str, int]:
    """{module: the highest possible rank of its update} of the matrices in a file of `save_updates`, layer by layer;
    only the header is read."""
    with safe_open(str(path), "numpy") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  (no mapping)
    ranks: dict[str, int] = {}
    for key, shape in shapes.items():
        name, _, part = key.rpartition(".")
        if len(shape) == 2 and part in ("B", "A", "dense"):
            ranks[name] = min(ranks.get(name, min(shape)), *shape)
    return {name: ranks[name] for name in sorted(ranks, key=layer_order)}


def load_updates(path: Path) -> list[Update]:
    """Reads a file of `save_updates`, in its order of modules."""
    tensors = load_file(str(path))
    names = dict.fromkeys(key.rsplit(".", 1)[0] for key in tensors)
    return [Update(name, *(tensors.get(f"{name}.{part}") for part in ("B", "A", "dense"))) for name in names]
