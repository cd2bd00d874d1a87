"""Adapters from elsewhere: a PEFT folder or zip becomes updates, without its base model and without trusting it.

Reads LoRA (with rsLoRA, DoRA's low-rank part, PiSSA saved as LoRA), AdaLoRA, LoHa and LoKr. It opens no pickle, follows
no link, obeys no pattern of the config as a regular expression, and writes nothing. It knows no run.
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

from lora_playground.analysis.tensors import FLOATS, PICKLE_NAMES, TensorFile, refuse_pickle
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG = 2**20
_PREFIX = "base_model.model."
_LITERAL = re.compile(r"[A-Za-z0-9_.\-]{1,300}")
_METHODS = {
    "LORA": ("lora_A", "lora_B"),
    "ADALORA": ("lora_A", "lora_B", "lora_E"),
    "LOHA": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "LOKR": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
}


@dataclass(frozen=True)
class AdapterConfig:
    """What is taken over from an adapter's config: an allowlist, each value checked.

    Attributes:
        method: 'LORA', 'ADALORA', 'LOHA' or 'LOKR'.
        rank, alpha: of the whole adapter; `ranks` and `alphas` of modules whose name ends so.
        rslora: s = alpha/√r rather than alpha/r; dora: norms are trained beside the factors.
        base: the base model's name as the adapter gives it; only ever shown and compared.
        start: how its factors began, such as 'pissa'.
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
    if method not in _METHODS:
        raise AdapterError(
            f"{CONFIG}: peft_type {brief(data.get('peft_type'))} cannot be looked at without its base model; "
            f"known here are {', '.join(_METHODS)}."
        )
    ranks = _pattern(data, "rank_pattern")
    # AdaLoRA keeps one list of switches a module; its tensors are stored at their final rank.
    ranks = {} if method == "ADALORA" else {key: _rank(value, "rank_pattern") for key, value in ranks.items()}
    alphas = {key: _alpha(value, "alpha_pattern") for key, value in _pattern(data, "alpha_pattern").items()}
    start = data.get("init_lora_weights")
    alpha = data.get("lora_alpha", data.get("alpha", 8))
    return AdapterConfig(
        method=method,
        rank=_rank(data.get("r", 8), "r"),
        alpha=_alpha(alpha, "lora_alpha"),
        rslora=_switch(data, "use_rslora"),
        dora=_switch(data, "use_dora"),
        ranks=ranks,
        alphas=alphas,
        base=str(data.get("base_model_name_or_path") or "")[:200],
        start=start[:40] if isinstance(start, str) else "",
    )


def _rank(value: Any, name: str) -> int:
    if type(value) is not int or not 1 <= value <= 16_384:
        raise AdapterError(f"{CONFIG}: {name} is {brief(value)}; a rank is a whole number from 1 to 16384.")
    return value


def _alpha(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e6:
        raise AdapterError(f"{CONFIG}: {name} is {brief(value)}; it must be a finite number.")
    return float(value)


def _switch(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name) or False
    if not isinstance(value, bool):
        raise AdapterError(f"{CONFIG}: {name} is {brief(value)}; it must be true or false.")
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


def brief(value: Any) -> str:
    """A value from a stranger, short enough to be shown."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ------------------------------------------------------------------------------------------------------- adapter


@dataclass
class Adapter:
    """An adapter that has passed all checks; its tensors are read when asked for.

    Attributes:
        config: its allowlisted config.
        shapes: {module: (out, in)} of every update.
        ranks: {module: r} as its tensors have it.
        notes: sentences a person should read, such as that DoRA's norms are left out.
    """

    folder: Path
    config: AdapterConfig
    file: TensorFile
    parts: dict[str, dict[str, str]]
    shapes: dict[str, tuple[int, int]]
    ranks: dict[str, int]
    notes: list[str]

    def updates(self) -> Iterator[Update]:
        """Reads the updates one after another, scaling folded in; raises AdapterError at NaN or Inf."""
        for module in self.parts:
            yield self.update(module)

    def update(self, module: str) -> Update:
        """ΔW of one module."""
        arrays = {part: self._finite(key) for part, key in self.parts[module].items()}
        return _build(module, arrays, self.config)

    def _finite(self, key: str) -> np.ndarray:
        array = self.file.read(key)
        if array.dtype == np.float16:
            array = array.astype(np.float32)  # which NumPy checks much faster, and which is needed next
        if not np.isfinite(array).all():
            raise AdapterError(
                f"{key} holds NaN or Inf; the training that made this adapter has diverged, so there is nothing to see."
            )
        return array

    def check_fits(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Raises AdapterError unless every module exists in the base with this (out, in) shape."""
        for module, shape in self.shapes.items():
            if module not in shapes:
                raise AdapterError(
                    f"the adapter changes {module}, which the base model does not have; "
                    f"it was made for {self.config.base or 'another base model'}."
                )
            if tuple(shapes[module]) != shape:
                raise AdapterError(
                    f"{module} is {tuple(shapes[module])} in the base model but {shape} in the adapter; "
                    f"it was made for {self.config.base or 'another base model'}."
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
    parts, left_out = _sort(file, config)
    shapes, ranks = {}, {}
    for module, keys in parts.items():
        entries = {part: file.entries[key] for part, key in keys.items()}
        shapes[module], ranks[module] = _shape(module, {part: e.shape for part, e in entries.items()}, config)
    notes = _notes(config, left_out)
    return Adapter(folder, config, file, parts, shapes, ranks, notes)


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


def _sort(file: TensorFile, config: AdapterConfig) -> tuple[dict[str, dict[str, str]], list[str]]:
    """{module: {part: tensor's name}}, and what is no part of an update (norms, whole modules saved beside)."""
    known = _METHODS[config.method]
    parts: dict[str, dict[str, str]] = {}
    left_out: list[str] = []
    for key, entry in file.entries.items():
        if not _LITERAL.fullmatch(key):
            raise AdapterError(f"{TENSORS}: {brief(key)} is no valid name of a tensor.")
        name = key.removeprefix(_PREFIX)
        # PEFT leaves the adapter's name out when it saves; other tools leave it in ('lora_A.default.weight').
        match = re.fullmatch(r"(.+?)\.(lora_embedding_[AB]|[a-z]+_[A-Za-z0-9_]+?)(?:\.default)?(?:\.weight)?", name)
        part = match.group(2).replace("embedding_", "") if match else ""
        if match and part in known:
            if entry.dtype not in FLOATS:
                raise AdapterError(f"{key} is of type {entry.dtype}; an update's tensors are floating point.")
            place = parts.setdefault(match.group(1), {})
            part = part + ("!" if "embedding" in match.group(2) else "")
            if part in place:
                raise AdapterError(f"{TENSORS} holds {part} of {match.group(1)} twice; give a file with one adapter.")
            place[part] = key
        elif match and part.startswith(("lora_", "hada_", "lokr_", "vera_")) and "magnitude" not in part:
            raise AdapterError(
                f"{TENSORS}: {brief(key)} does not belong to a {config.method} adapter of linear layers."
            )
        elif key.startswith(_PREFIX):
            left_out.append(key)
        else:
            raise AdapterError(
                f"{TENSORS}: {brief(key)} is no part of a {config.method} adapter, whose tensors are named "
                f"{_PREFIX}<module>.{known[0]}.weight. Is this a whole model?"
            )
    if not parts:
        raise AdapterError(f"{TENSORS} holds no tensor of a {config.method} adapter ({', '.join(known[:2])}, ...).")
    return parts, left_out


def _shape(module: str, shapes: Mapping[str, tuple[int, ...]], config: AdapterConfig) -> tuple[tuple[int, int], int]:
    """((out, in), r) of a module's update; raises AdapterError where parts are missing or disagree."""
    rank, _ = config.of(module)
    if config.method in ("LORA", "ADALORA"):
        embedding = "lora_A!" in shapes
        A, B = (shapes.get(part + ("!" if embedding else "")) for part in ("lora_A", "lora_B"))
        if A is None or B is None:
            raise AdapterError(
                f"{module} has {'lora_A' if A else 'lora_B'} but not the other factor; the file is incomplete."
            )
        if len(A) != 2 or len(B) != 2:
            raise AdapterError(f"{module} is no linear layer: its factors have shapes {A} and {B}.")
        if A[0] != B[1]:
            raise AdapterError(f"{module}: A is {A} and B is {B}; B must be (out, r) and A (r, in) with one r.")
        if config.method == "ADALORA":
            if shapes.get("lora_E", (A[0], 1)) != (A[0], 1) or "lora_E" not in shapes:
                raise AdapterError(f"{module}: lora_E must be ({A[0]}, 1), it is {shapes.get('lora_E', 'missing')}.")
        elif A[0] != rank:
            raise AdapterError(f"{module} has rank {A[0]} by its tensors but {rank} by {CONFIG}; one of them is wrong.")
        return ((A[1], B[0]) if embedding else (B[0], A[1])), A[0]
    if config.method == "LOHA":
        found = [shapes.get(part) for part in _METHODS["LOHA"]]
        if any(shape is None or len(shape) != 2 for shape in found):
            raise AdapterError(f"{module} lacks one of {', '.join(_METHODS['LOHA'])}, or is no linear layer.")
        w1a, w1b, w2a, w2b = (shape for shape in found if shape is not None)
        if w1a != w2a or w1b != w2b or w1a[1] != w1b[0]:
            raise AdapterError(f"{module}: LoHa's factors {w1a}, {w1b}, {w2a}, {w2b} do not fit together.")
        return (w1a[0], w1b[1]), w1a[1] ** 2
    first, second = (_kron_side(module, shapes, f"lokr_w{i}") for i in (1, 2))
    return (first[0] * second[0], first[1] * second[1]), first[2] * second[2]


def _kron_side(module: str, shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, int, int]:
    """(rows, columns, rank) of one Kronecker factor, whole or as a product."""
    whole, a, b = shapes.get(name), shapes.get(f"{name}_a"), shapes.get(f"{name}_b")
    if whole is not None and len(whole) == 2:
        return whole[0], whole[1], min(whole)
    if a is None or b is None or len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        raise AdapterError(f"{module}: {name} is missing, or its factors {a} and {b} do not fit together.")
    return a[0], b[1], a[1]


def _notes(config: AdapterConfig, left_out: list[str]) -> list[str]:
    notes = []
    if config.dora:
        notes.append(
            "This is a DoRA adapter. Without its base model only its low-rank part s·B·A is shown; the trained norms, "
            "which make the true update full rank, are left out."
        )
    if config.start.startswith(("pissa", "olora", "corda", "lora_ga")):
        notes.append(
            f"Its factors began from the base's own weights ({config.start}). Unless it was converted when saved, "
            "B·A holds that start as well, and the spectrum is not that of what was learned."
        )
    others = [key for key in left_out if "magnitude" not in key]
    if others:
        notes.append(
            f"{len(others)} whole tensors saved beside the adapter are left out (such as "
            f"{others[0].removeprefix(_PREFIX)}): what changed in them cannot be told without the base."
        )
    return notes


def _build(module: str, arrays: Mapping[str, np.ndarray], config: AdapterConfig) -> Update:
    """ΔW from its parts, scaling folded in, as float32 factors where it is low-rank."""
    rank, alpha = config.of(module)
    x = {part: np.asarray(array, dtype=np.float32) for part, array in arrays.items()}
    if config.method == "LORA":
        scaling = alpha / (math.sqrt(rank) if config.rslora else rank)
        if "lora_A!" in x:
            return Update(module, scaling * x["lora_A!"].T, x["lora_B!"].T)
        return Update(module, scaling * x["lora_B"], x["lora_A"])
    if config.method == "ADALORA":
        r = x["lora_A"].shape[0]
        scaling = (alpha if alpha > 0 else float(r)) / (r + 1e-5)
        return Update(module, scaling * x["lora_B"], x["lora_A"] * x["lora_E"])
    scaling = alpha / rank
    if config.method == "LOHA":
        # (C₁D₁)∘(C₂D₂) = Σᵢⱼ (c₁ᵢ∘c₂ⱼ)(d₁ᵢ∘d₂ⱼ): row-wise and column-wise products of all pairs of directions.
        B = (x["hada_w1_a"][:, :, None] * x["hada_w2_a"][:, None, :]).reshape(x["hada_w1_a"].shape[0], -1)
        A = (x["hada_w1_b"][:, None, :] * x["hada_w2_b"][None, :, :]).reshape(-1, x["hada_w1_b"].shape[1])
        return _smaller(module, scaling * B, A)
    (B1, A1), (B2, A2) = (_kron_factors(x, f"lokr_w{i}") for i in (1, 2))
    # (B₁A₁)⊗(B₂A₂) = (B₁⊗B₂)(A₁⊗A₂).
    return _smaller(module, scaling * np.kron(B1, B2), np.kron(A1, A2))


def _kron_factors(x: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    if name not in x:
        return x[f"{name}_a"], x[f"{name}_b"]
    whole = x[name]
    if whole.shape[0] <= whole.shape[1]:
        return np.eye(whole.shape[0], dtype=np.float32), whole
    return whole, np.eye(whole.shape[1], dtype=np.float32)


def _smaller(module: str, B: np.ndarray, A: np.ndarray) -> Update:
    if B.shape[1] * (B.shape[0] + A.shape[1]) < B.shape[0] * A.shape[1]:
        return Update(module, B, A)
    return Update(module, dense=B @ A)
