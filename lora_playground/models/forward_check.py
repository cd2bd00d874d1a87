"""Checks that a forward pass with padding and cached keys and values gives the model's own logits; only then it is
used.

It knows forward passes and their cache; nothing of sampling or texts.
"""

from __future__ import annotations

import logging

import torch

from lora_playground.models.kv_cache import Buffers, Window
from lora_playground.models.linear import is_quantised
from lora_playground.models.llama_forward import LlamaForward
from lora_playground.models.placed_update import unwrapped
from lora_playground.models.transformers_forward import TransformersForward

TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest one, in float32; 300 times as much in half precision or
quantised."""

log = logging.getLogger(__name__)


def agrees(forward: LlamaForward | TransformersForward) -> bool:
    """Whether a pass with padding and cached keys and values gives the model's own logits, up to rounding."""
    name = type(unwrapped(forward.model)).__name__
    try:
        difference = _difference(forward)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        log.info("%s does not work with this app's cache of keys and values: %s", name, error)
        return False
    parameters = list(forward.model.parameters())
    exact = all(p.dtype == torch.float32 and not is_quantised(p) for p in parameters)
    limit = TOLERANCE if exact else 300 * TOLERANCE
    if difference > limit:
        log.info("%s: logits with cached keys and values differ by %.2g; the cache is not used.", name, difference)
    return difference <= limit


@torch.no_grad()
def _difference(forward: LlamaForward | TransformersForward) -> float:
    """Largest difference of logits, against the largest logit, over two prompts of unlike length, padded on the left,
    and one more token of each."""
    embedding = unwrapped(forward.model).get_input_embeddings().weight
    lengths, longest = (7, 4), 7
    texts = [
        [(index * 7919 + 13 * row + 5) % len(embedding) for index in range(n + 1)] for row, n in enumerate(lengths)
    ]
    buffers = Buffers()
    buffers.reserve(2, longest)
    buffers.starts, buffers.rows = [longest - n for n in lengths], 2
    buffers.end = longest
    starts = torch.tensor(buffers.starts)[:, None]
    ids = torch.tensor([[0] * (longest - n) + text[:n] for n, text in zip(lengths, texts)])
    positions = (torch.arange(longest)[None] - starts).clamp_min(0)
    last = torch.tensor([[text[-1]] for text in texts])
    got = [
        forward(Window(buffers, 0, 2, 0, 0), ids, starts, positions),
        forward(Window(buffers, 0, 2, 0, longest), last, starts, longest - starts),
    ]
    worst = 0.0
    for row, (n, text) in enumerate(zip(lengths, texts)):
        given = torch.tensor([text], device=embedding.device)
        whole = forward.model(input_ids=given, use_cache=False).logits[0].float()
        for logits, expected in zip(got, whole[n - 1 : n + 1]):
            worst = max(worst, float((logits[row] - expected).abs().max() / expected.abs().max().clamp_min(1e-9)))
    return worst
