"""One token for every row of a batch in one compiled call a processor (`models.kernel`), for small models.

Each processor takes some of the rows for the whole token, so that none waits for another between. Numba compiles the
kernel in the background, once for a machine; until then, and wherever it declines, the steps of `models.step` are
taken. It knows the lean pass's weights and a plan.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lora_playground.models.kv import Buffers
from lora_playground.models.rows import Linear, Plan, Product

if TYPE_CHECKING:
    from lora_playground.models.lean import Group, Lean

LARGEST = 150_000_000
"""Weights of the largest model that is decoded so; twice as many bytes are kept beside it."""
ROWS = 32
"""With more rows than these a product of matrices is faster."""
TOKENS = 96
"""With more tokens of prompts than these it is, too."""

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
        from lora_playground.models.kernel import tokens

        tokens(0, 1, 0, 1, *_tiny())
        _compiled.set()
    except Exception as error:  # a processor, a Numba or a cache folder that cannot: decoding goes on without
        log.info("Tokens are not decoded by compiled code: %s", error)


def _tiny() -> tuple[Any, ...]:
    """Arguments of the kernel's types."""
    f, i = np.float32, np.int64
    matrices = tuple(np.zeros((1, out, half), np.uint32) for out, half in ((12, 2), (4, 2), (8, 2), (4, 2)))
    return (
        *(np.zeros(1, i) for _ in range(5)),
        np.zeros((8, 4), f), (*matrices, np.zeros((8, 2), np.uint32)), np.zeros((1, 12), f), np.ones((3, 4), f),
        f(1e-5), np.ones((4, 2), f), np.zeros((4, 2), f), np.zeros((1, 2, 1, 1, 2, 4), f), f(1),
        np.zeros(0, f), np.zeros((1, 4, 2), i), np.zeros((0, 6), i), np.zeros((1, 0), f),
        *(np.zeros((1, n), f) for n in (4, 4, 12, 4, 8, 4, 4, 2, 4, 8)),
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
        self.helpers: list[Helper] = []
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


class Helper:
    """A thread that works for whoever gives it something; one at a time."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        threading.Thread(target=self._run, name="rows", daemon=True).start()

    def _run(self) -> None:
        while True:
            work = self._work.get()
            try:
                work()
                self._done.put(None)
            except BaseException as error:
                self._done.put(error)

    def begin(self, work: Callable[[], None]) -> None:
        """Has it work; `finish` must be called before it gets more."""
        self._work.put(work)

    def finish(self) -> BaseException | None:
        """Waits until the work is done; what it raised."""
        return self._done.get()


class Fused:
    """Made for one plan; usable for as long as rows and plan stay, like `step.Step`. Row i of the plan is row
    `first` + i of the buffers."""

    def __init__(self, lean: Lean, held: Matrices, plan: Plan, rows: int) -> None:
        from lora_playground.models.kernel import tokens

        self.lean, self.tokens, self.held, self.rows = lean, tokens, held, rows
        self.added = _added(lean, plan, rows)
        a, widths = lean.heads * lean.size, lean.layers[0].gate_up.widths
        d = held.table.shape[1]
        self.sizes = (d, d, a + 2 * lean.groups * lean.size, a, sum(widths), widths[0], d)
        self.each = np.arange(rows)
        self.scratch: list[Array] = []

    def __call__(self, buffers: Buffers, ids: list[int]) -> torch.Tensor:
        """Reads a token a row at the end of the buffers; logits (R, V), float32. The caller moves the end."""
        if not self.scratch or self.scratch[-1].shape[1] < buffers.columns:
            self.scratch = self._scratch(self.rows, buffers.columns)
        columns = np.full(self.rows, buffers.end)
        return self._read(buffers, 0, [1] * self.rows, ids, self.each, columns, np.array(buffers.starts), self.scratch)

    def prompts(self, buffers: Buffers, first: int, prompts: list[list[int]]) -> torch.Tensor:
        """Reads a prompt a row, so that they end at the end of the buffers, into the rows from `first` on, whose starts
        are set; logits (R, V) of their last tokens, float32."""
        lean, lengths = self.lean, [len(prompt) for prompt in prompts]
        buffers.stack(len(lean.layers), lean.groups, lean.size, lean.embed.weight)
        ids = [token for prompt in prompts for token in prompt]
        columns = np.concatenate([np.arange(buffers.end - length, buffers.end) for length in lengths])
        starts = np.repeat(np.array(buffers.starts[first:]), lengths)
        slots = np.repeat(first + self.each, lengths)
        return self._read(
            buffers, first, lengths, ids, slots, columns, starts, self._scratch(len(ids), buffers.columns)
        )

    def _scratch(self, count: int, columns: int) -> list[Array]:
        return [np.empty((count, size), np.float32) for size in (*self.sizes, columns)]

    def _read(
        self, buffers: Buffers, first: int, lengths: list[int], ids: list[int], slots: Array, columns: Array,
        starts: Array, scratch: list[Array],
    ) -> torch.Tensor:  # fmt: skip
        """Reads tokens, so many of each row, the rows shared out among the processors."""
        assert buffers.whole is not None
        if not 0 <= min(ids) <= max(ids) < len(self.held.table):  # compiled code would read beyond
            raise IndexError(f"a token is none of the model's {len(self.held.table)}")
        held, ends, scales = self.held, np.cumsum(lengths), self.added[3]
        if first:
            scales = np.concatenate([np.zeros((first, scales.shape[1]), np.float32), scales])
        final = np.empty((self.rows, held.table.shape[1]), np.float32)
        logits = np.empty((self.rows, held.table.shape[0]), np.float32)
        given = (
            np.array(ids), slots, columns, starts, ends - 1, held.table, held.all, held.bias, held.norms, held.epsilon,
            held.cos, held.sin, buffers.whole.numpy(), held.scale, *self.added[:3], scales, *scratch, final, logits,
        )  # fmt: skip
        threads = min(torch.get_num_threads(), self.rows)
        while len(held.helpers) < threads - 1:
            held.helpers.append(Helper())
        cuts = [int(np.searchsorted(ends, ends[-1] * part / threads)) for part in range(1, threads)]
        rows = [0, *(cut + 1 for cut in cuts), self.rows]
        shares = [
            (int(ends[low - 1]) if low else 0, int(ends[high - 1]), low, high)
            for low, high in itertools.pairwise(rows)
            if low < high
        ]
        # Waking a thread takes a tenth of a token's time, so the others begin first; the last rows, which are rarely
        # the base's and so take longer, are this thread's.
        helpers = self.held.helpers[: len(shares) - 1]
        for helper, share in zip(helpers, shares):
            helper.begin(partial(self.tokens, *share, *given))
        try:
            self.tokens(*shares[-1], *given)
        finally:
            errors = [error for helper in helpers if (error := helper.finish()) is not None]
        if errors:
            raise errors[0]
        return torch.from_numpy(logits)


def _added(lean: Lean, plan: Plan, rows: int) -> tuple[Array, Array, Array, Array]:
    """What a plan adds, as `kernel.tokens` reads it: (numbers, heads, parts, scales)."""
    numbers: list[Array] = []
    scales: list[Array] = []
    heads = np.zeros((len(lean.layers), 4, 2), np.int64)
    parts: list[tuple[int, ...]] = []
    place = strengths = 0
    for index, layer in enumerate(lean.layers):
        for number, group in enumerate((layer.qkv, layer.o, layer.gate_up, layer.down)):
            heads[index, number, 0] = len(parts)
            left = 0
            for name, width in zip(group.names, group.widths):
                if name in plan.operations:
                    operation = plan.operations[name][1]
                    assert isinstance(operation, Linear)
                    update = operation.products[0]
                    A, Bt = update.At.t().reshape(-1).numpy(), update.Bt.reshape(-1).numpy()
                    K = update.At.shape[1]
                    parts.append((place, place + A.size, K, strengths, left, left + width))
                    numbers += [A, Bt]
                    scales.append(_strengths(update, rows))
                    place, strengths = place + A.size + Bt.size, strengths + K
                left += width
            heads[index, number, 1] = len(parts)
    if not parts:
        return np.zeros(0, np.float32), heads, np.zeros((0, 6), np.int64), np.zeros((rows, 0), np.float32)
    return np.concatenate(numbers), heads, np.array(parts), np.concatenate(scales, 1)


def _strengths(update: Product, rows: int) -> Array:
    """(R, K): a row's strength on each row of A."""
    if update.scale is not None:
        return update.scale.numpy()
    return np.ones((rows, update.At.shape[1]), np.float32)
