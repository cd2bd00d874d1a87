"""The sizes of a decoder model from its config.json, and hence its linear modules and number of parameters.

Plain arithmetic on a dict: no torch, no files. For models that are not on this disk yet, and for estimates of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_playground.errors import ModelError


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only transformer.

    Attributes:
        kind: transformers' model_type. hidden: width d of the residual stream; layers; inner: width of the MLP.
        heads: query heads; query, key: widths of all query and of all key heads. vocabulary: rows of the embeddings.
        tied: whether the output head is the embeddings. positions: learned position embeddings, 0 for none.
        gated: whether the MLP multiplies two projections. norms: of width d in a layer; head_norms: whether queries
        and keys are normed too. rms: RMSNorm rather than LayerNorm.
        attention_dropout: whether training drops attention weights.
    """

    kind: str
    hidden: int
    layers: int
    inner: int
    heads: int
    query: int
    key: int
    vocabulary: int
    tied: bool
    positions: int
    gated: bool
    norms: int
    head_norms: bool
    rms: bool
    attention_dropout: bool = False

    @property
    def fused(self) -> bool:
        """Whether projections that read the same input are one matrix."""
        return self.kind in ("phi3", "gpt2")

    def modules(self) -> list[tuple[str, int, int]]:
        """(name, out, in) of the linear modules, as `catalogue.module_shapes` lists them for a model on disk."""
        d, q, k, f = self.hidden, self.query, self.key, self.inner
        if self.kind == "gpt2":
            parts = [("attn.c_attn", 3 * d, d), ("attn.c_proj", d, d), ("mlp.c_fc", f, d), ("mlp.c_proj", d, f)]
            return [(f"transformer.h.{n}.{name}", m, into) for n in range(self.layers) for name, m, into in parts]
        if self.kind == "phi3":
            parts = [("self_attn.qkv_proj", q + 2 * k, d), ("self_attn.o_proj", d, q), ("mlp.gate_up_proj", 2 * f, d)]
        else:
            out = "dense" if self.kind == "phi" else "o_proj"
            parts = [(f"self_attn.{name}_proj", m, d) for name, m in (("q", q), ("k", k), ("v", k))]
            parts += [(f"self_attn.{out}", d, q)]
            if self.gated:
                parts += [("mlp.gate_proj", f, d), ("mlp.up_proj", f, d)]
        parts += [("mlp.down_proj", d, f)] if self.gated else [("mlp.fc1", f, d), ("mlp.fc2", d, f)]
        return [(f"model.layers.{n}.{name}", m, into) for n in range(self.layers) for name, m, into in parts]

    @property
    def embeddings(self) -> int:
        """Parameters outside of the layers: embeddings, output head, positions."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.positions * self.hidden

    @property
    def parameters(self) -> int:
        """Parameters of the whole model, biases left out (they are under a thousandth)."""
        norms = self.layers * self.norms * self.hidden + self.hidden
        return self.embeddings + norms + sum(m * n for _, m, n in self.modules())


_UNGATED = ("gpt2", "phi", "gpt_neox", "opt", "starcoder2")


def model_shape(config: dict[str, Any]) -> ModelShape:
    """The sizes in a config.json; raises ModelError if they are missing."""
    nested = config.get("text_config")
    if isinstance(nested, dict) and "hidden_size" in nested:
        config = {**nested, "tie_word_embeddings": nested.get("tie_word_embeddings", config.get("tie_word_embeddings"))}
    kind = str(config.get("model_type", ""))
    try:
        hidden = int(config.get("hidden_size") or config["n_embd"])
        layers = int(config.get("num_hidden_layers") or config["n_layer"])
        heads = int(config.get("num_attention_heads") or config["n_head"])
        inner = int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
        head = int(config.get("head_dim") or hidden // heads)
        groups = int(config.get("num_key_value_heads") or heads)
        vocabulary = int(config["vocab_size"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"The model's config.json does not tell its sizes ({error}).") from error
    gemma = kind.startswith("gemma3")
    tied = config.get("tie_word_embeddings")
    dropped = config.get("attn_pdrop", config.get("attention_dropout", 0.1 if kind == "gpt2" else 0.0))
    return ModelShape(
        kind=kind,
        hidden=hidden,
        layers=layers,
        inner=inner,
        heads=heads,
        query=heads * head,
        key=groups * head,
        vocabulary=vocabulary,
        tied=bool(tied) if tied is not None else kind in ("gpt2",) or gemma,
        positions=int(config.get("n_positions") or 1024) if kind == "gpt2" else 0,
        gated=kind not in _UNGATED,
        norms=4 if gemma or kind == "gemma2" else 1 if kind == "phi" else 2,
        head_norms=gemma or kind.startswith("qwen3"),
        rms=kind not in _UNGATED,
        attention_dropout=float(dropped or 0) > 0,
    )


_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")


def context_length(config: dict[str, Any]) -> int | None:
    """The most tokens that a model reads, from its config.json; None if that is missing."""
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        for name in _CONTEXT_NAMES:
            value = source.get(name)
            if isinstance(value, int) and value > 0:
                return value
    return None


def vocabulary(config: dict[str, Any]) -> int | None:
    """The number of tokens (rows of the embedding) of a model, from its config.json; None if that is missing."""
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        if isinstance(source.get("vocab_size"), int):
            return int(source["vocab_size"])
    return None
