"""One token for every row of a batch in one compiled call a processor (`models.kernel`), for small models.

Each processor takes some of the rows for the whole token, so that none waits for another between. Numba compiles the
kernel in the background, once for a machine; until then, and wherever it declines, the steps of `models.step` are
taken. It knows the lean pass's weights and a plan.
"""

from __future__ import annotations

import itertools
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lora_playground.models.kv import Buffers
from lora_playground.models.rows import Plan

if TYPE_CHECKING:
    from lora_playground.models.lean import Group, Lean

LARGEST = 150_000_000
"""Weights of the largest model that is decoded so; twice as many bytes are kept beside it."""
ROWS = 32
"""With more rows than these a product of matrices is faster."""

Array = np.ndarray[Any, Any]
log = logging.getLogger(__name__)
_compiled, _begun, _lock = threading.Event(), threading.Event(), threading.Lock()


def prepare(wait: float = 0.0) -> bool:
    """Has the kernel compiled, in the background, if it is not yet; waits for it up to so many seconds. Whether it is
    there."""
    with _lock:
        if not _begun.is_set():
            _begun.set()
            threading.Thread(target=_compile, name="compile", daemon=True).start()
    return _compiled.wait(wait)


def _compile() -> None:
    try:
        from lora_playground.models.kernel import token

        token(0, 1, *_tiny())
        _compiled.set()
    except Exception as error:  # a processor, a Numba or a cache folder that cannot: decoding goes on without
        log.info("Tokens are not decoded by compiled code: %s", error)


def _tiny() -> tuple[Any, ...]:
    """Arguments of the kernel's types."""
    f, i = np.float32, np.int64
    matrices = tuple(np.zeros((1, out, half), np.uint32) for out, half in ((12, 2), (4, 2), (8, 2), (4, 2)))
    return (
        np.zeros(1, i), np.zeros(1, i), np.zeros(1, i), 0,
        np.zeros((8, 4), f), (*matrices, np.zeros((8, 2), np.uint32)), np.zeros((1, 12), f), np.ones((3, 4), f),
        f(1e-5), np.ones((4, 2), f), np.zeros((4, 2), f), np.zeros((1, 2, 1, 1, 2, 4), f), f(1),
        np.zeros(0, f), np.zeros((1, 4, 4), i), np.zeros((0, 5), i), np.zeros((1, 0), f),
        *(np.zeros((1, n), f) for n in (4, 4, 12, 4, 8, 4, 4, 2, 8)),
    )  # fmt: skip


def pairs(weight: torch.Tensor) -> Array | None:
    """W (out, in), float32, as the kernel reads it: (out, in/2) uint32; None where bfloat16 would change it."""
    bits = weight.detach().contiguous().numpy().view(np.uint32)
    if bits.shape[1] % 2 or (bits & 0xFFFF).any():
        return None
    half = bits.shape[1] // 2
    return np.ascontiguousarray((bits[:, :half] >> 16) | bits[:, half:])


class Matrices:
    """A model's weights as the kernel reads them. Make it by `matrices`."""

    def __init__(self, lean: Lean) -> None:
        layers = lean.layers
        groups = [[getattr(layer, name) for layer in layers] for name in ("qkv", "o", "gate_up", "down")]
        stacked = [_stacked(members) for members in groups]
        head = pairs(lean.last.matrix.t()) if lean.last.matrix is not None else None
        if head is None or any(one is None for one in stacked):
            raise ValueError("its weights are not bfloat16 numbers")
        self.all = (*stacked, head)
        bias = [layer.qkv.bias for layer in layers]
        width = 0 if bias[0] is None else bias[0].shape[0]
        self.bias = np.zeros((len(layers), width), np.float32)
        for index, one in enumerate(bias):
            if one is not None:
                self.bias[index] = one.detach().numpy()
        norms = [norm for layer in layers for norm in (layer.before, layer.after)] + [lean.norm]
        self.norms = np.stack([norm.weight.detach().numpy() for norm in norms])  # type: ignore[union-attr, operator]
        half = lean.size // 2
        self.cos = np.ascontiguousarray(lean.cos.numpy()[:, :half])
        self.sin = np.ascontiguousarray(lean.sin.numpy()[:, half:])
        self.table = lean.embed.weight.detach().numpy()
        self.epsilon, self.scale = np.float32(lean.norm.variance_epsilon), np.float32(lean.scale)  # type: ignore[arg-type]


def _stacked(groups: list[Group]) -> Array | None:
    found = [pairs(group.matrix.t()) if group.matrix is not None else None for group in groups]
    return None if any(one is None for one in found) else np.stack(found)  # type: ignore[arg-type]


def matrices(lean: Lean) -> Matrices | None:
    """The weights for the kernel; None for a model that it does not take."""
    weight = lean.embed.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    if sum(group.matrix.numel() for group in lean.every_group if group.matrix is not None) > LARGEST:
        return None
    if any(layer.q_norm is not None or layer.k_norm is not None for layer in lean.layers):
        return None
    inputs = {id(layer.qkv) for layer in lean.layers}
    for group in lean.every_group:
        biases = [one.bias is not None for one in group.linears]
        if any(biases) and (id(group) not in inputs or group.bias is None):
            return None
    if len({norm.variance_epsilon for layer in lean.layers for norm in (layer.before, layer.after, lean.norm)}) != 1:
        return None
    try:
        return Matrices(lean)
    except ValueError as error:
        log.info("Tokens are not decoded by compiled code: %s", error)
        return None


@lru_cache(maxsize=1)
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="rows")


class Fused:
    """Made for one plan; usable for as long as rows and plan stay, like `step.Step`."""

    def __init__(self, lean: Lean, held: Matrices, plan: Plan, rows: int) -> None:
        from lora_playground.models.kernel import token

        self.token, self.held, self.rows = token, held, rows
        self.added = _added(lean, plan, rows)
        d, widths = held.table.shape[1], lean.layers[0].gate_up.widths
        a = lean.heads * lean.size
        sizes = (d, d, a + 2 * lean.groups * lean.size, a, sum(widths), widths[0], d)
        self.scratch = [np.zeros((rows, size), np.float32) for size in sizes]
        self.scores = np.zeros((rows, 0), np.float32)
        threads = min(torch.get_num_threads(), rows)
        cuts = [rows * part // threads for part in range(threads + 1)]
        self.shares = list(itertools.pairwise(cuts))

    def __call__(self, buffers: Buffers, ids: list[int]) -> torch.Tensor:
        """Reads a token a row at the end of the buffers; logits (R, V), float32. The caller moves the end."""
        assert buffers.whole is not None
        held, end = self.held, buffers.end
        if self.scores.shape[1] < buffers.columns:
            self.scores = np.zeros((self.rows, buffers.columns), np.float32)
        starts = np.array(buffers.starts)
        logits = np.empty((self.rows, held.table.shape[0]), np.float32)
        given = (
            np.array(ids), end - starts, starts, end, held.table, held.all, held.bias, held.norms, held.epsilon,
            held.cos, held.sin, buffers.whole.numpy(), held.scale, *self.added, *self.scratch, self.scores, logits,
        )  # fmt: skip
        others = [_helpers(len(self.shares) - 1).submit(self.token, *share, *given) for share in self.shares[1:]]
        self.token(*self.shares[0], *given)
        for other in others:
            other.result()
        return torch.from_numpy(logits)


def _added(lean: Lean, plan: Plan, rows: int) -> tuple[Array, Array, Array, Array]:
    """What a plan adds, as `kernel.added` reads it: (numbers, heads, parts, scales)."""
    numbers: list[torch.Tensor] = []
    heads = np.zeros((len(lean.layers), 4, 4), np.int64)
    parts: list[tuple[int, int, int, int, int]] = []
    scales: list[torch.Tensor] = []
    place = strengths = 0
    for index, layer in enumerate(lean.layers):
        for number, group in enumerate((layer.qkv, layer.o, layer.gate_up, layer.down)):
            joint = plan.joint(group.names, group.widths)
            if joint is None:
                heads[index, number, 2:] = len(parts)
                continue
            K = joint.At.shape[1]
            numbers.append(joint.At.t().reshape(-1))
            heads[index, number] = place, strengths, len(parts), len(parts) + len(joint.Bts)
            place += numbers[-1].numel()
            for Bt, (low, high), (start, stop) in zip(joint.Bts, joint.columns, joint.places):
                parts.append((low, high, start, stop, place))
                numbers.append(Bt.reshape(-1))
                place += numbers[-1].numel()
            scales.append(_scale(joint.scale, joint.run, rows, K))
            strengths += K
    if not numbers:
        return np.zeros(0, np.float32), heads, np.zeros((0, 5), np.int64), np.zeros((rows, 0), np.float32)
    return torch.cat(numbers).numpy(), heads, np.array(parts), np.ascontiguousarray(torch.cat(scales, 1).numpy())


def _scale(scale: torch.Tensor | None, run: tuple[int, int, float] | None, rows: int, K: int) -> torch.Tensor:
    """(R, K): a row's strength on each row of A."""
    if run is None:
        return torch.ones(rows, K) if scale is None else scale
    first, count, strength = run
    made = torch.zeros(rows, K)
    made[first : first + count] = strength
    return made
