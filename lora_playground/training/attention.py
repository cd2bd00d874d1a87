"""Causal attention over packed rows, in which each example attends to itself only and no mask is made.

With a mask, attention costs rows × length² whatever the examples' lengths. Here the examples are gathered into a few
groups of similar length, each group is one causal call, and the results are put back. It knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional

NAME = "playground_segments"


class Segments:
    """Where the examples of a packed batch are, and how they are grouped by length.

    Args:
        segments: (rows, length) number of the example within its row, 0 for padding.

    Attributes:
        groups: (examples, length) of each group. gather: (p,) index in the flattened batch of the token at each of the
            groups' p places; empty: places without a token. back: (rows · length,) the place of every token; outside:
            tokens that are padding.
    """

    def __init__(self, segments: np.ndarray) -> None:
        flat = segments.ravel()
        row = np.repeat(np.arange(segments.shape[0]), segments.shape[1])
        change = np.flatnonzero(np.diff(flat, prepend=-1) | np.diff(row, prepend=-1))
        sizes = np.diff(np.append(change, flat.size))
        real = flat[change] > 0
        starts, sizes = change[real], sizes[real]
        rounded = np.array([_group_length(int(size)) for size in sizes])
        gather, empty = [], []
        self.groups: list[tuple[int, int]] = []
        done = 0
        for length in np.unique(rounded):
            chosen = rounded == length
            places = np.arange(length)[None]
            inside = places < sizes[chosen][:, None]
            gather.append(np.where(inside, starts[chosen][:, None] + places, starts[chosen][:, None]).ravel())
            empty.append(np.flatnonzero(~inside.ravel()) + done)
            self.groups.append((int(chosen.sum()), int(length)))
            done += inside.size
        all_places, all_empty = np.concatenate(gather), np.concatenate(empty)
        back = np.zeros(flat.size, dtype=np.int64)
        filled = np.delete(np.arange(done), all_empty)
        back[all_places[filled]] = filled
        self.gather, self.empty, self.back, self.outside = (
            torch.from_numpy(array) for array in (all_places, all_empty, back, np.flatnonzero(flat == 0))
        )


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Segments | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls for attention. Without `segments`, as in generation, the library's own is used.

    Args:
        query: (rows, heads, length, d); key, value: (rows, key heads, length, d).

    Returns:
        (rows, length, heads, d), and no attention weights.
    """
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    rows, heads, length, _ = query.shape
    q, k, v = (_grouped(tensor, segments) for tensor in (query, key, value))
    results, start = [], 0
    for count, size in segments.groups:
        part = slice(start, start + count * size)
        start += count * size
        a, b, c = (tensor[part].view(count, size, -1, tensor.shape[-1]).transpose(1, 2) for tensor in (q, k, v))
        repeats = heads // b.shape[1]
        if repeats > 1:
            b, c = (tensor.repeat_interleave(repeats, dim=1) for tensor in (b, c))
        banded = sliding_window is not None and size > sliding_window
        mask = _band(size, int(sliding_window), a.float()) if banded and sliding_window is not None else None
        # In float32: the backward pass of torch's bfloat16 kernel for CPUs takes six times as long.
        with torch.autocast(query.device.type, enabled=False):
            out = functional.scaled_dot_product_attention(
                a.float(), b.float(), c.float(), mask, dropout, is_causal=mask is None, scale=scaling
            )
        results.append(out.to(query.dtype).transpose(1, 2).reshape(count * size, heads * out.shape[-1]))
    joined = results[0] if len(results) == 1 else torch.cat(results)
    back = _Rearrange.apply(joined, segments.back, segments.outside, segments.gather, segments.empty)
    return back.view(rows, length, heads, -1), None


@contextmanager
def segmented(model: Any, enabled: bool = True) -> Iterator[bool]:
    """Makes the model use `segment_attention` inside the block, provided that it uses torch's SDPA otherwise.

    Args:
        enabled: False leaves the model as it is.

    Yields:
        Whether the model uses `segment_attention`.
    """
    config = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    if not enabled or before != "sdpa" or not hasattr(model, "set_attn_implementation"):
        yield False
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    try:
        model.set_attn_implementation(NAME)
        in_use = model.config._attn_implementation == NAME
    except (ValueError, ImportError, AttributeError):
        in_use = False
    try:
        yield in_use
    finally:
        model.set_attn_implementation(before)


class _Rearrange(torch.autograd.Function):
    """Selects rows by index, each row at most once. The gradient is then a selection too, by the inverse index, which
    is faster than autograd's sum over the index. Rows named as empty are zero, and so are their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        source: torch.Tensor,
        index: torch.Tensor,
        index_empty: torch.Tensor,
        inverse: torch.Tensor,
        inverse_empty: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(inverse, inverse_empty)
        return source.index_select(0, index).index_fill_(0, index_empty, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        inverse, inverse_empty = ctx.saved_tensors
        return grads[0].index_select(0, inverse).index_fill_(0, inverse_empty, 0.0), None, None, None, None


def _grouped(tensor: torch.Tensor, segments: Segments) -> torch.Tensor:
    """(rows, heads, length, d) → (p, heads, d), the tokens in the order of the groups."""
    rows, heads, length, width = tensor.shape
    flat = tensor.transpose(1, 2).reshape(rows * length, heads * width)
    picked = _Rearrange.apply(flat, segments.gather, segments.empty, segments.back, segments.outside)
    return picked.view(-1, heads, width)


def _band(size: int, window: int, like: torch.Tensor) -> torch.Tensor:
    """(size, size) additive mask: a token sees itself and the `window` − 1 before it."""
    places = torch.arange(size, device=like.device)
    distance = places[:, None] - places[None, :]
    seen = (distance >= 0) & (distance < window)
    return torch.zeros(size, size, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))


def _group_length(size: int) -> int:
    """The length of the group for an example of `size` tokens, rounded up so that there are few groups."""
    step = 16 if size <= 64 else 32 if size <= 128 else 64 if size <= 512 else 256
    return -(-size // step) * step
