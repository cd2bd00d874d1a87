"""A forward pass for Llama-like models on a CPU, in plain PyTorch.

For a model of a few million parameters, transformers spends most of the time of a token in Python, on masks, caches and
checks. This pass calls the same modules (so that hooks, quantisation and wrappers apply) and computes the attention
between them. All other models use `transformers_forward`. It knows nothing of sampling or updates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from lora_playground.models.kv_cache import Window
from lora_playground.models.placed_update import unwrapped

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")


class LlamaForward:
    """The pass for one model.

    Args:
        model: a causal LM that `fits`, also one with a PEFT adapter inside.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.causal = unwrapped(model)
        self.head_size = self.causal.model.layers[0].self_attn.head_dim

    def __call__(
        self, window: Window, ids: torch.Tensor, starts: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Reads tokens at the window's end.

        Args:
            ids: (R, T) token ids. starts: (R, 1) first column of each row. positions: (R, T) position of each token.

        Returns:
            (R, V) float32 logits of the last column.
        """
        inner, device = self.causal.model, self.causal.model.embed_tokens.weight.device
        x = inner.embed_tokens(ids.to(device))
        cos, sin = (part[:, None] for part in inner.rotary_emb(x, positions.to(device)))
        sin = torch.cat([-sin[..., : self.head_size // 2], sin[..., self.head_size // 2 :]], -1)
        mask = _mask(window, starts, ids.shape[1])
        mask = None if mask is None else mask.to(device)
        for index, layer in enumerate(inner.layers):
            x = x + self._attention(layer.self_attn, layer.input_layernorm(x), cos, sin, mask, window, index)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.causal.lm_head(inner.norm(x[:, -1:]))[:, -1].float()

    def _attention(
        self,
        module: Any,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None,
        window: Window,
        index: int,
    ) -> torch.Tensor:
        """Self-attention of layer `index`: x (R, T, d) to (R, T, d)."""
        R, T, _ = x.shape
        projections = (module.q_proj, module.k_proj, module.v_proj)
        q, k, v = (projection(x).view(R, T, -1, self.head_size) for projection in projections)
        if hasattr(module, "q_norm"):
            q, k = module.q_norm(q), module.k_norm(k)
        q, k = _rotated(q.transpose(1, 2), cos, sin), _rotated(k.transpose(1, 2), cos, sin)
        keys, values = window.update(k, v.transpose(1, 2), index)
        a = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)
        return module.o_proj(a.transpose(1, 2).reshape(R, T, -1))


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (arXiv 2104.09864, eq. 34) of x (R, heads, T, size) with halves x₁ and x₂: the halves
    x₁·cos − x₂·sin and x₂·cos + x₁·sin. `cos` and `sin` are (R, 1, T, size); the first half of `sin` is negated."""
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


def _mask(window: Window, starts: torch.Tensor, T: int) -> torch.Tensor | None:
    """(R, 1, T, columns): whether a token attends to a column; None if all attend to all. A row's tokens attend to its
    columns up to their own, and padding to itself, so that no softmax is empty."""
    if T == 1 and int(starts.max()) <= window.begin:
        return None
    columns = torch.arange(window.begin, window.end + T)
    own = columns[-T:, None]
    return (((columns >= starts[:, :, None]) & (columns <= own)) | (columns == own))[:, None]


def fits(model: Any) -> bool:
    """Whether model, layers and attention are transformers' own ones of a family that this pass knows.

    Sliding windows are left to transformers, and so are rotations that depend on a row's length (dynamic, longrope).
    """
    causal = unwrapped(model)
    config = getattr(causal, "config", None)
    if not _is_plain(causal, "ForCausalLM") or not _is_plain(causal.model, "Model"):
        return False
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return False
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") in ("dynamic", "longrope") or rope.get("partial_rotary_factor", 1.0) != 1.0:
        return False
    layers = causal.model.layers
    return all(_is_plain(layer, "DecoderLayer") and _is_plain(layer.self_attn, "Attention") for layer in layers)


def _is_plain(module: Any, part: str) -> bool:
    """Whether a module is transformers' own part of a known family, without hooks and with its class's `forward`."""
    known = type(module).__name__ in {family + part for family in FAMILIES}
    own = type(module).__module__.startswith("transformers.models.") and "forward" not in vars(module)
    return known and own and not (module._forward_hooks or module._forward_pre_hooks)
