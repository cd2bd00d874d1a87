"""Remarks on a model folder for the user to read before training, from the headers of its files alone."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from lora_playground.errors import ModelError
from lora_playground.models.catalogue import EXPERTS, read_config, tensor_shapes

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
RECURRENT = {
    "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "mamba", "mamba2", "minimax", "nemotron_h",
    "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2",
}  # fmt: skip
"""Values of transformers' `model_type` of models with a recurrent state instead of keys and values."""
_KEEPS_NOTHING = {"cpmant", "openai-gpt"}
"""The same of models for which transformers has no cache at all."""


def remarks(folder: Path) -> list[str]:
    """Sentences on modules that are not loaded or not trained, and on what will be slow; empty for an ordinary model.

    Raises:
        ModelError: this app cannot train or run the folder's model.
    """
    config, shapes = read_config(folder), tensor_shapes(folder)
    if config.get("is_encoder_decoder"):
        kind = config.get("model_type")
        raise ModelError(f"{folder.name} is an encoder with a decoder ({kind}); choose a causal language model.")
    sentences = []
    if (folder / "adapter_config.json").is_file():
        sentences.append(f"{folder.name} also holds an adapter (adapter_config.json). It is not part of the base.")
    total = sum(prod(shape) for shape in shapes.values())
    experts = sum(prod(shape) for name, shape in shapes.items() if EXPERTS in name)
    if experts:
        sentences.append(
            f"{experts / total:.0%} of this model's weights are in experts. Only its attention is adapted."
        )
    if rereads(config):
        sentences.append(
            "This model is asked without padding and keeps nothing between two tokens: answers and scores take long."
        )
    return sentences


def rereads(config: dict[str, Any]) -> bool:
    """Whether every token of an answer needs a pass over the whole text: for models with a recurrent state or without a
    cache, and if the rotation of a position depends on the length of the text."""
    nested = config.get("text_config")
    both = [config, nested if isinstance(nested, dict) else {}]
    if any(one.get("model_type") in RECURRENT | _KEEPS_NOTHING for one in both):
        return True
    if any(kind not in ATTENTION for one in both for kind in one.get("layer_types") or ()):
        return True
    ropes = [one.get(name) or {} for one in both for name in ("rope_parameters", "rope_scaling")]
    kinds = {rope.get("rope_type", rope.get("type")) for rope in ropes if isinstance(rope, dict)}
    return bool(kinds & {"dynamic", "longrope"})
