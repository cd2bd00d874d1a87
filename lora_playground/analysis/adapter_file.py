"""Adapters from elsewhere: a PEFT folder or zip becomes updates, without its base model and without trusting it.

Where ΔW cannot be computed from the file alone (`adapter_methods` says for which methods), the trained tensors
themselves are given, and `exchange.extraction` computes ΔW with the base. It opens no pickle, follows no link,
obeys no pattern of the config as a regular expression, and writes nothing. It knows no run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lora_playground.analysis import adapter_methods
from lora_playground.analysis.adapter_methods import ALONE, INDICES, METHODS, WEIGHTS, Method, brief
from lora_playground.analysis.tensors import FLOATS, PICKLE_NAMES, TensorFile, refuse_pickle
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG = 2**20
DORA = (
    "This is a DoRA adapter. Without its base model only its low-rank part s·B·A is shown; the trained norms, which "
    "make the true update full rank, are left out."
)
_PREFIX = "base_model.model."
_LITERAL = re.compile(r"[A-Za-z0-9_.\-]{1,300}")


@dataclass(frozen=True)
class AdapterConfig:
    """What is taken over from an adapter's config: an allowlist, each value checked.

    Attributes:
        method: its key in `adapter_methods.METHODS`, PEFT's peft_type.
        rank, alpha: of the whole adapter; `ranks` and `alphas` of modules whose name ends so.
        rslora: s = alpha/√r rather than alpha/r; dora: norms are trained beside the factors.
        base: the base model's name as the adapter gives it; only ever shown and compared.
        start: how its factors began, such as 'pissa'. options: further fields that PEFT needs for this method.
    """

    method: str
    rank: int
    alpha: float
    rslora: bool = False
    dora: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    base: str = ""
    start: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Method:
        """The method itself."""
        return METHODS[self.method]

    def of(self, module: str) -> tuple[int, float]:
        """(rank, alpha) that hold for a module; the first pattern that its name ends with wins, as in PEFT."""
        rank = next((r for key, r in self.ranks.items() if _ends(module, key)), self.rank)
        return rank, next((a for key, a in self.alphas.items() if _ends(module, key)), self.alpha)


def _ends(module: str, key: str) -> bool:
    return module == key or module.endswith("." + key)


def read_config(data: Any) -> AdapterConfig:
    """Rebuilds a config from an allowlist; raises AdapterError naming the field, the value and what is allowed."""
    if not isinstance(data, dict):
        raise AdapterError(f"{CONFIG} must hold one JSON object.")
    method = str(data.get("peft_type", "")).upper()
    if method not in METHODS:
        raise AdapterError(
            f"{CONFIG}: peft_type {brief(data.get('peft_type'))} is none whose ΔW of linear modules can be looked at; "
            f"known here are {', '.join(METHODS)}."
        )
    kind = METHODS[method]
    ranks = _pattern(data, "rank_pattern")
    # AdaLoRA keeps one list of switches a module; its tensors are stored at their final rank.
    ranks = {} if method == "ADALORA" else {key: _rank(value, "rank_pattern") for key, value in ranks.items()}
    alphas = {
        key: adapter_methods.number("alpha_pattern", value) for key, value in _pattern(data, "alpha_pattern").items()
    }
    start = data.get("init_lora_weights")
    return AdapterConfig(
        method=method,
        rank=_rank(data.get("r", 8), "r") if kind.ranked else 1,
        alpha=adapter_methods.number("lora_alpha", data.get("lora_alpha", data.get("alpha", 8))),
        rslora=adapter_methods.switch("use_rslora", data.get("use_rslora")),
        dora=adapter_methods.switch("use_dora", data.get("use_dora")),
        ranks=ranks,
        alphas=alphas,
        base=str(data.get("base_model_name_or_path") or "")[:200],
        start=start[:40] if isinstance(start, str) else "",
        options={name: take(name, data[name]) for name, take in kind.options.items() if data.get(name) is not None},
    )


def _rank(value: Any, name: str) -> int:
    if type(value) is not int or not 1 <= value <= 16_384:
        raise AdapterError(f"{CONFIG}: {name} is {brief(value)}; a rank is a whole number from 1 to 16384.")
    return value


def _pattern(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name) or {}
    if not isinstance(value, dict) or len(value) > 5_000:
        raise AdapterError(f"{CONFIG}: {name} must map module names to numbers.")
    found = {}
    for key, number in value.items():
        literal = str(key).removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not _LITERAL.fullmatch(literal):
            raise AdapterError(
                f"{CONFIG}: {name} has the pattern {brief(key)}; only plain module names are taken, since a regular "
                "expression from a stranger can run for ever. Write the names out."
            )
        found[literal] = number
    return found


# ------------------------------------------------------------------------------------------------------- adapter


@dataclass
class Adapter:
    """An adapter that has passed all checks; its tensors are read when asked for.

    Attributes:
        config: its allowlisted config.
        parts: {module: {part: the tensor's name}}; shared: {part: name} of tensors of the whole adapter.
        shapes: {module: (out, in)} of every update; where its file alone does not tell ΔW, those of `updates`.
        ranks: {module: r} as its tensors have it.
        needs: 'alone' where ΔW is told by the file, 'shapes' or 'weights' of the base where it is not.
        notes: sentences a person should read, such as that DoRA's norms are left out.
    """

    folder: Path
    config: AdapterConfig
    file: TensorFile
    parts: dict[str, dict[str, str]]
    shapes: dict[str, tuple[int, int]]
    ranks: dict[str, int]
    notes: list[str]
    shared: dict[str, str] = field(default_factory=dict)
    needs: str = ALONE

    def updates(self) -> Iterator[Update]:
        """Reads the updates one after another, scaling folded in; raises AdapterError at NaN or Inf. Where the file
        alone does not tell ΔW, these are the largest trained tensor of each module."""
        for module in self.parts:
            yield self.update(module)

    def update(self, module: str) -> Update:
        """ΔW of one module, or what `updates` says."""
        if self.needs != ALONE:
            return adapter_methods.trained_only(module, self.tensors(module))
        rank, alpha = self.config.of(module)
        return adapter_methods.build(self.config.method, module, self.tensors(module), rank, alpha, self.config.rslora)

    def tensors(self, module: str) -> dict[str, np.ndarray]:
        """{part: tensor} of one module; raises AdapterError at NaN or Inf."""
        return {part: self.finite(key) for part, key in self.parts[module].items()}

    def finite(self, key: str) -> np.ndarray:
        array = self.file.read(key)
        if array.dtype == np.float16:
            array = array.astype(np.float32)  # which NumPy checks much faster, and which is needed next
        if not np.isfinite(array).all():
            raise AdapterError(
                f"{key} holds NaN or Inf; the training that made this adapter has diverged, so there is nothing to see."
            )
        return array

    def check_fits(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Raises AdapterError unless every module exists in the base, with this (out, in) where that is known."""
        made = f"it was made for {self.config.base or 'another base model'}."
        for module, shape in self.shapes.items():
            if module not in shapes:
                raise AdapterError(f"the adapter changes {module}, which the base model does not have; {made}")
            if self.needs == ALONE and tuple(shapes[module]) != shape:
                raise AdapterError(
                    f"{module} is {tuple(shapes[module])} in the base model but {shape} in the adapter; {made}"
                )


def open_adapter(folder: Path, links: bool = False) -> Adapter:
    """Opens a PEFT adapter's folder and checks it against itself; tensors are not read yet.

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
    parts, shared, left_out = _sort(file, config)
    needs = _needs(config, parts)
    shapes, ranks = {}, {}
    for module, keys in parts.items():
        found = {part: file.entries[key].shape for part, key in keys.items()}
        if needs == ALONE:
            shapes[module], ranks[module] = adapter_methods.shape_of(config.method, module, found, config.of(module)[0])
        else:
            trained = [shape for part, shape in found.items() if part != INDICES] or [()]
            shapes[module], ranks[module] = adapter_methods.trained_shape(max(trained, key=math.prod)), config.rank
    return Adapter(folder, config, file, parts, shapes, ranks, _notes(config, left_out), shared, needs)


def _needs(config: AdapterConfig, parts: Mapping[str, Mapping[str, str]]) -> str:
    if config.method == "DELORA" and any("delora_w_norm" not in names for names in parts.values()):
        return WEIGHTS  # early versions did not save the lengths of W's columns
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


def _sort(file: TensorFile, config: AdapterConfig) -> tuple[dict[str, dict[str, str]], dict[str, str], list[str]]:
    """{module: {part: tensor's name}}, {shared part: tensor's name}, and what is no part of an update (whole modules
    saved beside)."""
    known, label = config.kind.parts, config.method
    others = tuple({method.prefix for method in METHODS.values()})
    parts: dict[str, dict[str, str]] = {}
    shared: dict[str, str] = {}
    left_out: list[str] = []
    for key, entry in file.entries.items():
        if not _LITERAL.fullmatch(key):
            raise AdapterError(f"{TENSORS}: {brief(key)} is no valid name of a tensor.")
        whole = key.removeprefix("base_model.").removesuffix(".default")
        if whole in config.kind.shared:
            _floating(key, entry.dtype)
            shared[whole] = key
            continue
        name = key.removeprefix(_PREFIX)
        # PEFT leaves the adapter's name out when it saves; other tools leave it in ('lora_A.default.weight').
        match = re.fullmatch(r"(.+?)\.(lora_embedding_[AB]|[a-z0-9]+_[A-Za-z0-9_]+?)(?:\.default)?(?:\.weight)?", name)
        part = match.group(2).replace("embedding_", "") if match else ""
        if match and part in config.kind.shared:  # RandLoRA's file repeats them for every module
            shared.setdefault(part, key)
        elif match and part in known:
            if part != INDICES:
                _floating(key, entry.dtype)
            place = parts.setdefault(match.group(1), {})
            part = part + ("!" if "embedding" in match.group(2) else "")
            if part in place:
                raise AdapterError(f"{TENSORS} holds {part} of {match.group(1)} twice; give a file with one adapter.")
            place[part] = key
        elif match and part.startswith(others):
            raise AdapterError(f"{TENSORS}: {brief(key)} does not belong to a {label} adapter of linear layers.")
        elif key.startswith(_PREFIX):
            left_out.append(key)
        else:
            raise AdapterError(
                f"{TENSORS}: {brief(key)} is no part of a {label} adapter, whose tensors are named "
                f"{_PREFIX}<module>.{known[0]}.weight. Is this a whole model?"
            )
    if not parts:
        raise AdapterError(f"{TENSORS} holds no tensor of a {label} adapter ({', '.join(known[:2])}, ...).")
    return parts, shared, left_out


def _floating(key: str, dtype: str) -> None:
    if dtype not in FLOATS:
        raise AdapterError(f"{key} is of type {dtype}; an update's tensors are floating point.")


def _notes(config: AdapterConfig, left_out: list[str]) -> list[str]:
    notes = []
    if config.dora:
        notes.append(DORA)
    if config.start.startswith(("pissa", "olora", "corda", "lora_ga")):
        notes.append(
            f"Its factors began from the base's own weights ({config.start}). Unless it was converted when saved, "
            "B·A holds that start as well, and the spectrum is not that of what was learned."
        )
    if left_out:
        notes.append(
            f"{len(left_out)} whole tensors saved beside the adapter are left out (such as "
            f"{left_out[0].removeprefix(_PREFIX)}): what changed in them cannot be told without the base."
        )
    return notes
