"""Chooses the next token with noise that all panes share, and measures how two distributions differ.

It knows logits and seeds only: no model, no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Sampling:
    """How a row's next token is chosen.

    Attributes:
        temperature: 0 takes the most probable token.
        top_p: only the smallest set of tokens with at least this probability is sampled from; 0 to 1.
        seed, group: rows that share both get the same noise at the same step.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    group: int = 0


def gumbel(seed: int, group: int, step: int, vocabulary: int) -> torch.Tensor:
    """One Gumbel draw (vocabulary,) that depends on nothing but its arguments: argmax(logits/T + draw) is a sample
    of softmax(logits/T) (Gumbel-max)."""
    mask = 2**64 - 1
    bits = np.random.Philox(key=np.array([seed & mask, group & mask], dtype=np.uint64), counter=[0, 0, 0, step])
    uniform = np.random.Generator(bits).random(vocabulary, dtype=np.float32)
    with np.errstate(divide="ignore"):
        return torch.from_numpy(-np.log(-np.log(uniform)))


def nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Logits (R, V) with tokens outside each row's nucleus top_p (R,) at -inf; the most probable always stays."""
    ordered, order = logits.sort(-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    outside = before >= top_p[:, None]
    outside[:, 0] = False
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), float("-inf"))


def choose(logits: torch.Tensor, rows: Sequence[Sampling], steps: Sequence[int]) -> list[int]:
    """The next token id of every row from logits (R, V), float32; steps[i]: how many tokens row i has already."""
    warm = [index for index, row in enumerate(rows) if row.temperature > 0]
    if warm:
        scores = logits if len(warm) == len(rows) else logits[warm]
        scores = scores / torch.tensor([[rows[i].temperature] for i in warm], device=logits.device)
        top_p = [rows[i].top_p for i in warm]
        if min(top_p) < 1.0:
            scores = nucleus(scores, torch.tensor(top_p, device=logits.device))
        draws: dict[tuple[int, int, int], torch.Tensor] = {}
        for i in warm:
            key = (rows[i].seed, rows[i].group, steps[i])
            if key not in draws:
                draws[key] = gumbel(*key, logits.shape[-1])
        noise = torch.stack([draws[rows[i].seed, rows[i].group, steps[i]] for i in warm]).to(logits.device)
        picked = (scores + noise).argmax(-1).tolist()
        if len(warm) == len(rows):
            return picked
    tokens: list[int] = logits.argmax(-1).tolist()
    for position, index in enumerate(warm):
        tokens[index] = picked[position]
    return tokens


def divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) in nats of rows of log-probabilities (R, V); (R,), never negative."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0.0)
