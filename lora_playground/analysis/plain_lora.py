"""Writes updates as a plain LoRA folder in PEFT's format, which stock PEFT loads on the pristine base.

It works on NumPy alone and knows no variant: whatever ΔW is, its factors (or a truncated SVD of it) are a LoRA with
s = 1. PEFT and torch are not imported, so that the web process can offer the download.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lora_playground.analysis.spectra import update_svd
from lora_playground.analysis.update import Update

EMBEDDINGS = ("embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "tok_embeddings")
"""Last parts of the names of embeddings, in the models of transformers."""


@dataclass(frozen=True)
class Written:
    """How closely a written plain LoRA equals the updates.

    Attributes:
        relative_error: ‖ΔW − BA‖_F / ‖ΔW‖_F over all modules together, those left out included; 0 is exact.
        errors: the same for each module.
        left_out: names of parameters that a LoRA cannot hold (norms, biases, embeddings, the output head).
        rank: the highest rank written.
    """

    relative_error: float
    errors: dict[str, float]
    left_out: list[str]
    rank: int


def truncate(update: Update, rank: int | None, tolerance: float = 0.0) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(B, A, ‖ΔW − BA‖², ‖ΔW‖²) of a two-dimensional update.

    Factors of at most `rank` columns are returned unchanged. Otherwise the truncated SVD is taken, the nearest matrix
    of that rank in the Frobenius norm (Eckart and Young), with √σ on either side. A dense update without a `rank` gets
    as few directions as lose no more than `tolerance` of ‖ΔW‖.
    """
    if update.B is not None and update.A is not None:
        b, a = update.B, update.A
        if rank is None or b.shape[1] <= rank:
            return b, a, 0.0, float(np.sum((b.T @ b).astype(np.float64) * (a @ a.T)))
    u, s, vt = update_svd(update)
    energy = np.concatenate([np.cumsum(s[::-1] ** 2)[::-1], [0.0]])  # what keeping the first k directions loses
    keep = int(np.argmax(energy <= tolerance**2 * energy[0])) if rank is None else min(rank, len(s))
    keep = max(keep, 1)
    root = np.sqrt(s[:keep])
    return u[:, :keep] * root, root[:, None] * vt[:keep], float(np.sum(s[keep:] ** 2)), float(np.sum(s**2))


def write_plain_lora(
    updates: Iterable[Update],
    folder: Path,
    *,
    base: str = "",
    fan_in_fan_out: bool = False,
    rank: int | None = None,
    tolerance: float = 0.0,
    whole: Mapping[str, np.ndarray] | None = None,
) -> Written:
    """Writes adapter_config.json and adapter_model.safetensors with ΔW = B·A and α = r, so that s = 1.

    Args:
        updates: of all modules. Those of norms and biases are left out and count as lost.
        folder: gets the two files.
        base: name of the base model in the config.
        fan_in_fan_out: True if the modules are Conv1D (GPT-2).
        rank: the highest rank a module may get; None keeps factors unchanged.
        tolerance: if `rank` is None, the share of ‖ΔW‖ that a dense update may lose in a module.
        whole: {parameter of the base: its new value} for changes that are not low-rank: PEFT loads these in place of
            the base's own (modules_to_save, bias).
    """
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    errors: dict[str, float] = {}
    left_out: list[str] = []
    lost = total = 0.0
    for update in updates:
        if not update.of_matrix:
            left_out.append(update.name)
            part = float(np.sum(update.matrix() ** 2))
            lost, total = lost + part, total + part
            continue
        b, a, missing, size = truncate(update, rank, tolerance)
        lost, total = lost + missing, total + size
        errors[update.name] = float(np.sqrt(missing / size)) if size > 0 else 0.0
        ranks[update.name] = b.shape[1]
        tensors |= _named(f"base_model.model.{update.name}", b, a, is_embedding(update.name))
    config = _adapter_config(ranks, base, fan_in_fan_out)
    for name, value in (whole or {}).items():
        owner, _, leaf = name.rpartition(".")
        if leaf == "bias" and owner in ranks:
            config["bias"] = "all"
            tensors[f"base_model.model.{owner}.base_layer.bias"] = value
            continue
        config["modules_to_save"] = sorted({*(config.get("modules_to_save") or ()), owner})  # type: ignore[misc]
        tensors[f"base_model.model.{name}"] = value
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    error = float(np.sqrt(lost / total)) if total > 0 else 0.0
    return Written(error, errors, left_out, max(ranks.values(), default=0))


def is_embedding(name: str) -> bool:
    """Whether a module is an embedding, by its name."""
    return name.rpartition(".")[2] in EMBEDDINGS


def _named(stem: str, b: np.ndarray, a: np.ndarray, embedding: bool) -> dict[str, np.ndarray]:
    """Factors B (out, r) and A (r, in) under PEFT's names. For an embedding, ΔE = B·A (vocabulary, width) equals PEFT's
    (lora_embedding_B · lora_embedding_A)ᵀ."""
    if embedding:
        return {f"{stem}.lora_embedding_A": b.T, f"{stem}.lora_embedding_B": a.T}
    return {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}


def _adapter_config(ranks: dict[str, int], base: str, fan_in_fan_out: bool) -> dict[str, object]:
    """A LoraConfig as JSON: the commonest rank is `r`, others are named in the patterns."""
    usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "target_modules": sorted(ranks),
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }
