"""Reads updates from a PEFT adapter's folder, without its base model and without trusting it.

If ΔW cannot be computed from the file alone, the trained tensors themselves are returned, and `exchange.extraction`
computes ΔW with the base. It opens no pickle, follows no link, runs no pattern of the config as a regular expression,
and writes nothing. It knows no run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lora_playground.analysis import adapter_methods
from lora_playground.analysis.adapter_config import CONFIG, LITERAL, AdapterConfig, read_config
from lora_playground.analysis.adapter_methods import ALONE, INDICES, METHODS, WEIGHTS, brief
from lora_playground.analysis.tensors import FLOATS, PICKLE_NAMES, TensorFile, refuse_pickle
from lora_playground.analysis.update import Update
from lora_playground.analysis.weights import Weights
from lora_playground.errors import AdapterError

TENSORS = "adapter_model.safetensors"
MAX_CONFIG = 2**20
_PREFIX = "base_model.model."
_ROWS = ".token_adapter.trainable_tokens_delta"


# ------------------------------------------------------------------------------------------------------- adapter


@dataclass
class Adapter:
    """An adapter that has passed all checks; its tensors are read by the methods, one module at a time.

    Attributes:
        config: its checked config.
        parts: {module: {part: name of the tensor}}; shared: {part: name} of tensors of the whole adapter.
        shapes: {module: (out, in)} of what `updates` returns.
        ranks: {module: r}, from the tensors' shapes.
        saved: {parameter of the base: name of the tensor that replaces it}. rows: {embedding: name of the tensor whose
            rows replace some of its rows}. held: {parameter: name of an unchanged copy of the base's own}.
        needs: 'alone' if ΔW follows from the file, else the part of the base that is needed, 'shapes' or 'weights'.
    """

    folder: Path
    config: AdapterConfig
    file: TensorFile
    parts: dict[str, dict[str, str]]
    shapes: dict[str, tuple[int, int]]
    ranks: dict[str, int]
    shared: dict[str, str] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    needs: str = ALONE

    @property
    def complete(self) -> bool:
        """Whether the adapter's whole effect follows from its file alone."""
        return self.needs == ALONE and not (self.config.dora or self.saved or self.rows)

    def updates(self) -> Iterator[Update]:
        """Reads the updates one after another, scaling folded in. If ΔW does not follow from the file alone, each is
        the largest trained tensor of its module. Raises AdapterError at NaN or Inf."""
        for module in self.parts:
            yield self.update(module)

    def update(self, module: str) -> Update:
        """One module's update; see `updates`."""
        if self.needs != ALONE:
            return adapter_methods.trained_only(module, self.tensors(module))
        rank, alpha = self.config.of(module)
        return adapter_methods.build(self.config.method, module, self.tensors(module), rank, alpha, self.config.rslora)

    def tensors(self, module: str) -> dict[str, np.ndarray]:
        """{part: tensor} of one module; raises AdapterError at NaN or Inf."""
        return {part: self.finite(key) for part, key in self.parts[module].items()}

    def replacements(self, base: Weights) -> Iterator[Update]:
        """The updates of the parameters, and of rows of embeddings, that the adapter stores whole: their difference to
        the base's own.

        Raises:
            AdapterError: the base has no such parameter, or it has another shape.
        """
        for name, key in self.held.items():
            value = self.finite(key)
            if not np.allclose(value, base.weight(name, value.shape), atol=1e-6, rtol=1e-2 if base.rounded else 1e-6):
                raise AdapterError(
                    f"{key} is not the base's own {name}; the base that it was trained on was changed or resized."
                )
        for name, key in self.saved.items():
            value = self.finite(key).astype(np.float32)
            module = name.removesuffix(".weight")
            own = module if name.endswith(".weight") and value.ndim == 2 else name
            turned = own == module and base.turned(module)
            value = value.T if turned else value
            yield Update(own, dense=value - base.weight(own, value.shape).astype(np.float32))
        for module, key in self.rows.items():
            yield self._rows(module, self.finite(key).astype(np.float32), base)

    def _rows(self, module: str, values: np.ndarray, base: Weights) -> Update:
        """ΔE of an embedding with some new rows, as E's own parameter: a head tied to it changes too, as in PEFT."""
        tokens = self.config.tokens
        ids = tokens.get("") or next((i for name, i in tokens.items() if (f".{module}").endswith(f".{name}")), ())
        shape = base.shape(module)
        if shape is None or values.shape != (len(ids), shape[1]) or max(ids, default=0) >= shape[0]:
            raise AdapterError(
                f"{module} has new rows of shape {values.shape} for {len(ids)} token ids (trainable_token_indices), "
                f"and is {shape or 'missing'} in the base model."
            )
        places = np.zeros((shape[0], len(ids)), dtype=np.float32)
        places[list(ids), np.arange(len(ids))] = 1
        return Update(f"{module}.weight", places, values - base.weight(module, shape)[list(ids)].astype(np.float32))

    def finite(self, key: str) -> np.ndarray:
        """Reads a tensor by its name in the file; raises AdapterError at NaN or Inf."""
        array = self.file.read(key)
        if array.dtype == np.float16:
            array = array.astype(np.float32)  # which NumPy checks much faster, and which is needed next
        if not np.isfinite(array).all():
            raise AdapterError(
                f"{key} holds NaN or Inf; the training that made this adapter has diverged, so there is nothing to see."
            )
        return array

    def check_has(self, name: str, there: bool) -> None:
        """Raises AdapterError if the base lacks a parameter or module that the adapter stores whole."""
        if not there:
            made = self.config.base or "another base model"
            raise AdapterError(f"the adapter holds {name}, which the base model does not have; it was made for {made}.")

    def check_fits(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Raises AdapterError unless the base has every module of the adapter. The module's (out, in) must be equal too
        if it follows from the adapter's file alone."""
        made = f"it was made for {self.config.base or 'another base model'}."
        for module, shape in self.shapes.items():
            if module not in shapes:
                raise AdapterError(f"the adapter changes {module}, which the base model does not have; {made}")
            if self.needs == ALONE and tuple(shapes[module]) != shape:
                raise AdapterError(
                    f"{module} is {tuple(shapes[module])} in the base model but {shape} in the adapter; {made}"
                )


def open_adapter(folder: Path, links: bool = False) -> Adapter:
    """Opens a PEFT adapter's folder and checks that config and tensors agree; no tensor is read yet.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        links: whether the two files may be symbolic links (as in a hub cache).

    Raises:
        AdapterError: a file is missing, a pickle, a link, or damaged; config and tensors disagree.
    """
    for name in (CONFIG, TENSORS):
        path = folder / name
        if path.is_symlink() and not links:
            raise AdapterError(f"{name} is a symbolic link, which is not followed; copy the file itself there.")
        if not path.is_file():
            raise AdapterError(_missing(folder, name))
    refuse_pickle(folder / TENSORS)
    if (folder / CONFIG).stat().st_size > MAX_CONFIG:
        raise AdapterError(f"{CONFIG} is larger than 1 MiB; an adapter's config is far smaller.")
    try:
        data = json.loads((folder / CONFIG).read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise AdapterError(f"{CONFIG} is not valid JSON.") from error
    config, file = read_config(data), TensorFile(folder / TENSORS)
    sorted_ = _sort(file, config)
    parts = sorted_.parts
    needs = _needs(config, parts)
    shapes, ranks = {}, {}
    for module, keys in parts.items():
        found = {part: file.entries[key].shape for part, key in keys.items()}
        if needs == ALONE:
            shapes[module], ranks[module] = adapter_methods.shape_of(config.method, module, found, config.of(module)[0])
        else:
            trained = [shape for part, shape in found.items() if part != INDICES] or [()]
            shapes[module], ranks[module] = adapter_methods.trained_shape(max(trained, key=math.prod)), config.rank
    whole = sorted_.shared, sorted_.saved, sorted_.rows, sorted_.held
    return Adapter(folder, config, file, parts, shapes, ranks, *whole, needs)


def _needs(config: AdapterConfig, parts: Mapping[str, Mapping[str, str]]) -> str:
    if config.method == "DELORA" and any("delora_w_norm" not in names for names in parts.values()):
        return WEIGHTS  # early versions of PEFT did not save the lengths of W's columns
    if config.method == "MISS" and config.options.get("init_weights") == "bat":
        return WEIGHTS
    return config.kind.needs


def _missing(folder: Path, name: str) -> str:
    pickles = (
        [p.name for p in sorted(folder.iterdir()) if p.name.lower().endswith(PICKLE_NAMES)] if folder.is_dir() else []
    )
    if name == TENSORS and pickles:
        return (
            f"the adapter comes as {pickles[0]}, a pickle, which can run any code when it is opened, so it is refused. "
            f"Save it again with safe_serialization=True, which writes {TENSORS}."
        )
    return f"{name} is missing; an adapter is a folder with {CONFIG} and {TENSORS}."


@dataclass
class _Sorted:
    """The names of a file's tensors, sorted by their purpose; see `Adapter`."""

    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)


def _sort(file: TensorFile, config: AdapterConfig) -> _Sorted:
    """Finds the purpose of every tensor of the file; raises AdapterError if PEFT would ignore one or it is unknown."""
    found = _Sorted()
    for key, entry in file.entries.items():
        if not LITERAL.fullmatch(key):
            raise AdapterError(f"{TENSORS}: {brief(key)} is no valid name of a tensor.")
        if "_orig_mod" in key:
            raise AdapterError(
                f"{TENSORS}: {brief(key)} names a compiled model's module, for which PEFT finds no place. Save the "
                "adapter from the model before torch.compile."
            )
        whole = key.removeprefix("base_model.").removesuffix(".default")
        if whole in config.kind.shared:
            _floating(key, entry.dtype)
            found.shared[whole] = key
        elif not _sort_part(found, key, entry.dtype, config):
            _sort_whole(found, key, entry.dtype, config)
    if not found.parts:
        known = ", ".join(config.kind.parts[:2])
        raise AdapterError(f"{TENSORS} holds no tensor of a {config.method} adapter ({known}, ...).")
    for module in found.parts:
        if not config.adapts(module):
            raise AdapterError(
                f"{TENSORS} holds an update of {module}, which the config does not adapt (target_modules, "
                "exclude_modules, layers_to_transform, modules_to_save): PEFT would ignore it."
            )
    return found


def _sort_part(found: _Sorted, key: str, dtype: str, config: AdapterConfig) -> bool:
    """Sorts a tensor of an adapted module; returns False if it is not one."""
    known, others = config.kind.parts, tuple({method.prefix for method in METHODS.values()})
    # PEFT leaves the adapter's name out when it saves; other tools leave it in ('lora_A.default.weight').
    pattern = r"(.+?)\.(lora_embedding_[AB]|[a-z0-9]+_[A-Za-z0-9_]+?)(?:\.default)?(?:\.weight)?"
    match = re.fullmatch(pattern, key.removeprefix(_PREFIX))
    if match is None:
        return False
    part = match[2].replace("embedding_", "")
    if part in config.kind.shared:  # RandLoRA's file repeats them for every module
        found.shared.setdefault(part, key)
        return True
    if part not in known or (part == "lora_magnitude_vector" and not config.dora):
        if part.startswith(others):
            raise AdapterError(f"{TENSORS}: {brief(key)} does not belong to a {config.method} adapter of linear layers")
        return False
    if part != INDICES:
        _floating(key, dtype)
    part += "!" if "embedding" in match[2] else ""
    if part == "lora_A!" and config.dora:
        raise AdapterError(f"{TENSORS}: {brief(key)}: DoRA (use_dora) on an embedding is not understood here.")
    place = found.parts.setdefault(match[1], {})
    if part in place:
        raise AdapterError(f"{TENSORS} holds {part} of {match[1]} twice; give a file with one adapter.")
    place[part] = key
    return True


def _sort_whole(found: _Sorted, key: str, dtype: str, config: AdapterConfig) -> None:
    """Sorts a parameter of the base that the adapter stores whole, or some rows of one."""
    name, first = key.removeprefix(_PREFIX), config.kind.parts[0]
    if not key.startswith(_PREFIX):
        raise AdapterError(
            f"{TENSORS}: {brief(key)} is no part of a {config.method} adapter, whose tensors are named "
            f"{_PREFIX}<module>.{first}.weight. Is this a whole model?"
        )
    _floating(key, dtype)
    module = name.rpartition(".")[0]
    if name.endswith(_ROWS) and config.tokens:
        found.rows[name.removesuffix(_ROWS)] = key
    elif name.endswith(".base_layer.weight") and config.adapts(module.removesuffix(".base_layer")):
        found.held[name.replace(".base_layer.", ".")] = key
    elif name.endswith(".bias") and config.biases and ".lora_" not in name:
        found.saved[name.replace(".base_layer.", ".")] = key
    elif config.saves(module):
        found.saved[name] = key
    else:
        raise AdapterError(
            f"{TENSORS}: {brief(key)} is not understood: it is no part of a {config.method} adapter, and "
            "modules_to_save does not name it."
        )


def _floating(key: str, dtype: str) -> None:
    if dtype not in FLOATS:
        raise AdapterError(f"{key} is of type {dtype}; an update's tensors are floating point.")
