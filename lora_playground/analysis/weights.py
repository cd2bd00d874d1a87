"""Reads the weights in a base model's folder as NumPy arrays, without the model. It knows no adapter and no run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lora_playground.analysis.tensors import LARGE, TensorFile
from lora_playground.errors import AdapterError

CONV1D_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Values of `model_type` of models whose linear modules are Conv1D, which stores a weight as (in, out)."""

_CONV1D_WEIGHTS = ("c_attn.weight", "c_proj.weight", "c_fc.weight", "q_attn.weight")


def _model_type(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_bytes()).get("model_type"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


class Weights:
    """The tensors of a model folder, over all its safetensors files, read one at a time.

    Args:
        folder: holds `model.safetensors`, or shards.

    Raises:
        AdapterError: there are no safetensors files.
    """

    def __init__(self, folder: Path) -> None:
        single = folder / "model.safetensors"
        paths = [single] if single.is_file() else sorted(folder.glob("model-*.safetensors"))
        self.files = [TensorFile(path, *LARGE) for path in paths]
        if not self.files:
            raise AdapterError(f"{folder} holds no safetensors file, so the base's weights cannot be looked at.")
        self._where = {key: file for file in self.files for key in file.entries}
        self._turned = _model_type(folder) in CONV1D_MODELS
        self.rounded = any(entry.dtype in ("F16", "BF16") for file in self.files for entry in file.entries.values())

    @property
    def has_head(self) -> bool:
        """Whether the output head has a weight of its own, rather than the embedding's."""
        return any(key.endswith(("lm_head.weight", "embed_out.weight")) for key in self._where)

    def shape(self, module: str) -> tuple[int, ...] | None:
        """Shape of a module's weight as stored; None if there is no such module."""
        key = self._key(module)
        return None if key is None else self._where[key].entries[key].shape

    def has(self, name: str, root: str) -> bool:
        """Whether the loaded model has a module or parameter of exactly this name.

        Args:
            root: first part of the layers' names ('model', 'transformer'), which some files leave out.
        """
        if any(key.startswith(root + ".") for key in self._where):
            stored = name
        else:
            stored = name.removeprefix(root + ".") if name.startswith(root + ".") else ""
        tied = name.removesuffix(".weight") == "lm_head" and self._key(name) is not None
        return tied or stored in self._where or f"{stored}.weight" in self._where

    def turned(self, module: str) -> bool:
        """Whether a module's weight is stored as (in, out): a Conv1D's."""
        key = self._key(module)
        return self._turned and key is not None and key.endswith(_CONV1D_WEIGHTS)

    def weight(self, module: str, shape: tuple[int, ...]) -> np.ndarray:
        """W of a module in (out, in) layout, float32 or float64.

        Args:
            module: 'model.layers.0.self_attn.q_proj', or a parameter's own name.
            shape: the update's, which W must have.

        Raises:
            AdapterError: the base has no such module, or it has another shape.
        """
        key = self._key(module)
        if key is None:
            raise AdapterError(f"the base model has no module {module}; this adapter belongs to another base model.")
        W = self._where[key].read(key)
        # A parameter asked for by its own name comes as it is stored.
        if not module.endswith((".weight", ".bias")) and W.ndim == 2 and self.turned(module):
            W = W.T
        if W.shape != shape:
            raise AdapterError(
                f"{module}: the update is {shape} but the base's weight is {W.shape}; "
                "this adapter belongs to another base model."
            )
        return W if W.dtype in (np.float32, np.float64) else W.astype(np.float32)

    def _key(self, module: str) -> str | None:
        """A checkpoint may name its tensors with or without the head model's own prefix ('transformer.', 'model.')."""
        stems = [module, module.removeprefix("transformer."), module.removeprefix("model."), f"model.{module}"]
        for stem in stems:
            for key in (f"{stem}.weight", stem):
                if key in self._where:
                    return key
        if module in ("lm_head", "lm_head.weight"):  # tied to the embedding, stored once
            return next((key for key in self._where if key.endswith(("embed_tokens.weight", "wte.weight"))), None)
        return None
