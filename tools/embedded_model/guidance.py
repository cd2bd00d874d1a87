"""An extra training loss that tells a few attention heads where to look, for Llama layers of transformers.

With it a small model learns to copy and to compare within minutes. Copying a sequence takes two heads (Olsson et al.,
"In-context learning and induction heads", 2022): one attends to the previous token, and one in a later layer attends to
the token that followed an earlier occurrence of the current token. With the next-token loss alone these heads appear
late and suddenly. The extra loss is the cross-entropy of their attention against those targets, plus that of the next
token as the second head alone predicts it. Once the heads work, training goes on without it. Comparing ("is he a
baker?") takes a third kind of head, which attends to an earlier occurrence of the current token, or to the chat's first
token if there is none.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PREVIOUS_LAYER, REPEAT_LAYER, INDUCTION_LAYER = 1, 2, 3
PREVIOUS_HEADS, REPEAT_HEADS, INDUCTION_HEADS = (0, 2), (0, 4), (0, 2, 4, 6)  # of eight heads; two share a key head


def previous_targets(numbers: Tensor) -> Tensor:
    """Position of the previous token of the same chat, or -1. numbers: (batch, length), of chats; 0 is padding."""
    index = torch.arange(numbers.shape[1]).expand_as(numbers)
    same = F.pad(numbers[:, 1:] == numbers[:, :-1], (1, 0)) & (numbers > 0)
    return torch.where(same, index - 1, -1)


def induction_targets(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Where an induction head should look: for each t the latest s ≤ t in the same chat with tokens[s - 1] == tokens[t]
    and tokens[s] == tokens[t + 1], or -1. tokens, numbers: (batch, length)."""
    length = tokens.shape[1]
    before = F.pad(tokens[:, :-1], (1, 0), value=-1)
    following = F.pad(tokens[:, 1:], (0, 1), value=-2)
    same_chat = (numbers[:, :, None] == numbers[:, None, :]) & (numbers > 0)[:, :, None]
    index = torch.arange(length)
    earlier = (index[None, :] <= index[:, None]) & (index[None, :] > 0)
    matches = (
        same_chat & earlier & (tokens[:, :, None] == before[:, None, :]) & (following[:, :, None] == tokens[:, None, :])
    )
    latest = torch.where(matches, index, -1).amax(-1)
    return latest


def repeat_targets(tokens: Tensor, numbers: Tensor) -> Tensor:
    """The latest earlier position of the same token in the same chat, else the chat's first position; -1 in padding."""
    index = torch.arange(tokens.shape[1])
    same_chat = (numbers[:, :, None] == numbers[:, None, :]) & (numbers > 0)[:, :, None]
    earlier = index[None, :] < index[:, None]
    latest = torch.where(same_chat & earlier & (tokens[:, :, None] == tokens[:, None, :]), index, -1).amax(-1)
    first = torch.where(same_chat, index, tokens.shape[1]).amin(-1)
    return torch.where(latest >= 0, latest, torch.where(numbers > 0, first, -1))


class Guidance:
    """Records the inputs of the guided layers and computes the extra loss. Several threads may run one model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        chosen = (PREVIOUS_LAYER, INDUCTION_LAYER, REPEAT_LAYER)
        self.layers = [model.model.layers[number].self_attn for number in chosen]
        self.seen = threading.local()
        for place, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(self._catch(place), with_kwargs=True)

    def _catch(self, place: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            setattr(self.seen, f"layer{place}", (hidden, kwargs["position_embeddings"]))

        return hook

    def attention(self, place: int, head: int, allowed: Tensor) -> Tensor:
        """Log of one head's attention in a recorded layer. allowed: (batch, length, length) -> the same."""
        layer = self.layers[place]
        hidden, (cos, sin) = getattr(self.seen, f"layer{place}")
        size = layer.head_dim
        key = head // layer.num_key_value_groups
        q = hidden @ layer.q_proj.weight[head * size : (head + 1) * size].T
        k = hidden @ layer.k_proj.weight[key * size : (key + 1) * size].T
        q, k = (x * cos + torch.cat((-x[..., size // 2 :], x[..., : size // 2]), -1) * sin for x in (q, k))
        scores = (q @ k.mT) * size**-0.5
        return scores.masked_fill(~allowed, -torch.inf).log_softmax(-1)

    def written(self, head: int, attention: Tensor) -> Tensor:
        """What an induction head adds to the stream. attention: (batch, length, length) -> (batch, length, width)."""
        layer = self.layers[1]
        size, key = layer.head_dim, head // layer.num_key_value_groups
        values = self.seen.layer1[0] @ layer.v_proj.weight[key * size : (key + 1) * size].T
        return attention @ values @ layer.o_proj.weight[:, head * size : (head + 1) * size].T

    def loss(self, tokens: Tensor, numbers: Tensor) -> Tensor:
        """Sum of four means, in nats: the cross-entropy of each kind of head's attention against where it should look,
        and that of the next token as the induction heads alone would say it."""
        allowed = torch.tril(numbers[:, :, None] == numbers[:, None, :])
        before, found = previous_targets(numbers), induction_targets(tokens, numbers)
        if not (found >= 0).any():
            return tokens.new_zeros((), dtype=torch.float32)
        first = [self._missed(self.attention(0, head, allowed), before) for head in PREVIOUS_HEADS]
        looks = [self.attention(1, head, allowed) for head in INDUCTION_HEADS]
        second = [self._missed(look, found) for look in looks]
        again = repeat_targets(tokens, numbers)
        third = [self._missed(self.attention(2, head, allowed), again) for head in REPEAT_HEADS]
        said = sum(self.written(head, look.exp()) for head, look in zip(INDUCTION_HEADS, looks, strict=True))
        known = found >= 0
        logits = self.model.lm_head(self.model.model.norm(said[known]))
        copied = F.cross_entropy(logits, tokens.gather(1, found.clamp(min=0))[known])
        return sum(first) / len(first) + sum(second) / len(second) + sum(third) / len(third) + copied

    @staticmethod
    def _missed(attention: Tensor, targets: Tensor) -> Tensor:
        known = targets >= 0
        return -attention.gather(-1, targets.clamp(min=0)[..., None])[..., 0][known].mean()
