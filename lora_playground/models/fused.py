"""One token for every row of a batch in one compiled call (`models.kernel`), for small models.

At most a processor a row works on it, so a lone reply takes one, and one that has other work, or has to be woken first,
is not waited for. Numba compiles the kernel in the background, once for a machine; until then, and wherever it
declines, the steps of `models.step` are taken. It knows the lean pass's weights and a plan.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lora_playground.models.batched_lora import Linear, Plan, Product
from lora_playground.models.kv_cache import Buffers

if TYPE_CHECKING:
    from lora_playground.models.llama_forward import Group, LlamaForward
    from lora_playground.models.turns import Helper

LARGEST = 150_000_000
"""Weights of the largest model that is decoded so; twice as many bytes are kept beside it."""
ROWS = 32
"""With more rows than these a product of matrices is faster."""
TOKENS = 160
"""With more tokens of prompts than these it is, too."""

PATIENCE = 200_000
"""How often a thread looks for the next token before it sleeps, in all about two milliseconds."""
HOLD = 100_000
"""How often it is looked whether a thread that is awake comes."""
SPELL = 4, 256
"""How many tokens one thread reads alone, at least and at most, after one that took longer with help than without."""
FAIR = 4
"""And at least as many as one thread reads in so many times the time that the token took."""

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
        from lora_playground.models.kernel import follow, lead
        from lora_playground.models.turns import LEFT

        lead(np.zeros((1, 8), np.int64), 0, _tiny())
        follow(1, np.full((2, 8), LEFT), 0, _tiny())
        _compiled.set()
    except Exception as error:  # a processor, a Numba or a cache folder that cannot: decoding goes on without
        log.info("Tokens are not decoded by compiled code: %s", error)


def _tiny() -> tuple[Any, ...]:
    """Arguments of the kernel's types: one token of a model of width 16."""
    f, i = np.float32, np.int64
    matrices = tuple(np.zeros((1, outs // 16, 16, 8), np.uint32) for outs in (48, 16, 32, 16))
    scratch = [(1, 1, 16), (1, 1, 16), (1, 2), *((1, outs) for outs in (16, 48, 16, 32, 16, 16, 16))]
    return (
        *(np.zeros(1, i) for _ in range(5)),
        np.zeros(8 * 16, f), np.array([16, 1]), (*matrices, np.zeros((1, 16, 8), np.uint32)), np.zeros((1, 0), f),
        np.ones((3, 16), f), f(1e-5), np.ones((4, 4), f), np.zeros((4, 4), f), np.zeros((1, 2, 1, 2, 2, 8), f), f(1),
        np.zeros(0, f), np.zeros((1, 4, 2), i), np.zeros((0, 6), i), np.zeros((1, 0), f),
        *(np.zeros(shape, f) for shape in scratch),
    )  # fmt: skip


def pairs(weight: torch.Tensor) -> Array | None:
    """W (out, in), float32, as the kernel reads it: (out/16, in, 8) uint32; None where bfloat16 would change it, or it
    does not divide so."""
    bits = weight.detach().contiguous().numpy().view(np.uint32)
    out, width = bits.shape
    if out % 16 or width % 4 or (bits & 0xFFFF).any():
        return None
    blocks = bits.reshape(out // 16, 2, 8, width)
    return np.ascontiguousarray(((blocks[:, 0] >> 16) | blocks[:, 1]).transpose(0, 2, 1))


class Pace:
    """Decides for which tokens help is asked. Threads that have no processor each wait for each other, up to a hundred
    times as long as one alone would take; that passes, so it is tried again after a while.

    Attributes:
        alone: so many of the next tokens are read by one thread.
    """

    def __init__(self) -> None:
        self.alone, self._spell = 0, SPELL[0]

    def took(self, seconds: float, single: float) -> None:
        """Learns how long a token took with help, and takes without. Where help stalls again and again the spells get
        longer, so that what is lost stays small beside what is not."""
        if seconds <= single:
            self._spell = max(self._spell // 2, SPELL[0])
            return
        self.alone = min(max(self._spell, int(FAIR * seconds / single)), SPELL[1])
        self._spell = min(2 * self._spell, SPELL[1])


class Matrices:
    """A model's weights as the kernel reads them. Make it by `matrices`.

    Attributes:
        threads: how many share a token, at most.
    """

    def __init__(self, lean: LlamaForward) -> None:
        layers = lean.layers
        groups = [[getattr(layer, name) for layer in layers] for name in ("qkv", "o", "gate_up", "down")]
        stacked = [_stacked(members) for members in groups]
        last = lean.last.matrix
        padding = (0, 0, 0, -last.shape[1] % 16) if last is not None else ()
        head = pairs(torch.nn.functional.pad(last.t(), padding)) if last is not None else None
        if head is None or any(one is None for one in stacked):
            raise ValueError("its weights are not bfloat16 numbers")
        self.all: tuple[Array, ...] = (*stacked, head)  # type: ignore[arg-type]
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
        table = lean.embed.weight.detach().numpy()
        self.tokens, self.width = table.shape
        # One type for the compiled code, whichever way it lies.
        self.table = (table if table.flags.c_contiguous else np.asfortranarray(table).T).reshape(-1)
        self.steps = np.array([self.width, 1] if table.flags.c_contiguous else [1, self.tokens])
        self.helpers: list[Helper] = []
        self.pace, self.threads = Pace(), torch.get_num_threads()
        self.epsilon, self.scale = np.float32(lean.norm.variance_epsilon), np.float32(lean.scale)  # type: ignore[arg-type]


def _stacked(groups: list[Group]) -> Array | None:
    found = [pairs(group.matrix.t()) if group.matrix is not None else None for group in groups]
    return None if any(one is None for one in found) else np.stack(found)  # type: ignore[arg-type]


def matrices(lean: LlamaForward) -> Matrices | None:
    """The weights for the kernel; None for a model that it does not take."""
    weight = lean.embed.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    if sum(group.matrix.numel() for group in lean.every_group if group.matrix is not None) > LARGEST:
        return None
    if any(layer.q_norm is not None or layer.k_norm is not None for layer in lean.layers):
        return None
    if any(layer.gate_up.widths[0] % 16 for layer in lean.layers):
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


class Reading:
    """Some tokens of each row, read again and again with other ids and columns; all arrays are in place.

    Attributes:
        ids, columns, starts: of the tokens (T,), to be set before a call.
        single: seconds that a call takes one thread; 0 before that is measured.
    """

    def __init__(self, fused: Fused, buffers: Buffers, first: int, lengths: list[int], patience: int) -> None:
        assert buffers.whole is not None
        held, rows, count = fused.held, len(lengths), sum(lengths)
        self.fused, self.whole, self.held, self.patience = fused, buffers.whole, held, patience
        self.threads = held.threads
        parts = min(self.threads, rows)
        self.states = np.full((parts, 8), fused.turns.LEFT)
        self.single = 0.0
        self.errors: list[BaseException] = []  # of helpers
        scales = fused.added[3]
        if first:
            scales = np.concatenate([np.zeros((first, scales.shape[1]), np.float32), scales])
        self.ids, self.columns, self.starts = (np.zeros(count, np.int64) for _ in range(3))
        d, outs = held.width, 16 * len(held.all[-1])
        shapes = [(parts, count, d), (parts, rows, d), (parts, buffers.columns), (count, d)]
        shapes += [(count, size) for size in fused.sizes] + [(count, d), (rows, outs)]
        scratch = [np.empty(shape, np.float32) for shape in shapes]
        self.logits = scratch[-1]
        slots = np.repeat(np.arange(first, first + rows), lengths)
        self.given = (
            self.ids, slots, self.columns, self.starts, np.cumsum(lengths) - 1, held.table, held.steps, held.all,
            held.bias, held.norms, held.epsilon, held.cos, held.sin, self.whole.numpy(), held.scale, *fused.added[:3],
            scales, *scratch,
        )  # fmt: skip

    def fits(self, fused: Fused, buffers: Buffers) -> bool:
        """Whether it can be called for these rows again."""
        return self.fused is fused and self.whole is buffers.whole and self.threads == self.held.threads

    def __call__(self) -> torch.Tensor:
        """Logits (R, V), float32."""
        if not 0 <= self.ids.min() <= self.ids.max() < self.held.tokens:  # compiled code would read beyond
            raise IndexError(f"a token is none of the model's {self.held.tokens}")
        pace, start = self.held.pace, time.perf_counter()
        if pace.alone:
            pace.alone -= 1
            parts = self.fused.lead(self.states[:1], 0, self.given)
        else:
            hold = self._call_helpers()  # and the first token is read without them, to know how long that takes
            parts = self.fused.lead(self.states if self.single else self.states[:1], hold, self.given)
        seconds = time.perf_counter() - start
        if parts > 1:
            pace.took(seconds, self.single)
        else:
            self.single = 0.75 * self.single + 0.25 * seconds if self.single else seconds
        if self.errors:
            raise self.errors.pop()
        return torch.from_numpy(self.logits[:, : self.held.tokens].copy())

    def _call_helpers(self) -> int:
        """Wakes those who sleep or follow another; how long it pays to wait for them: not at all for those who slept,
        they will be there for the next token."""
        turns, helpers, hold = self.fused.turns, self.held.helpers, 0
        for line in range(1, len(self.states)):
            if len(helpers) < line:
                helpers.append(turns.Helper())
            if self.states[line, turns.STATE] == turns.LEFT:
                hold = HOLD if helpers[line - 1].awake else hold
                work = partial(self.fused.follow, line, self.states, self.patience, self.given)
                helpers[line - 1].call(self.states, line, work, self.errors)
        return hold


class Fused:
    """Made for one plan; usable for as long as rows and plan stay, like `step.Step`. Row i of the plan is row
    `first` + i of the buffers."""

    def __init__(self, lean: LlamaForward, held: Matrices, plan: Plan, rows: int) -> None:
        from lora_playground.models import kernel, turns

        self.turns, self.lead, self.follow = turns, kernel.lead, kernel.follow
        self.lean, self.held, self.rows = lean, held, rows
        self.added = _added(lean, plan, rows)
        a, widths = lean.heads * lean.size, lean.layers[0].gate_up.widths
        self.sizes = (a + 2 * lean.groups * lean.size, a, sum(widths), widths[0])

    def __call__(self, buffers: Buffers, ids: list[int]) -> torch.Tensor:
        """Reads a token a row at the end of the buffers; logits (R, V), float32. The caller moves the end."""
        reading = buffers.reading
        if reading is None or not reading.fits(self, buffers):
            reading = buffers.reading = Reading(self, buffers, 0, [1] * self.rows, PATIENCE)
        reading.ids[:] = ids
        reading.columns[:] = buffers.end
        reading.starts[:] = buffers.starts
        return reading()

    def prompts(self, buffers: Buffers, first: int, prompts: list[list[int]]) -> torch.Tensor:
        """Reads a prompt a row, so that they end at the end of the buffers, into the rows from `first` on, whose starts
        are set; logits (R, V) of their last tokens, float32."""
        lean, lengths = self.lean, [len(prompt) for prompt in prompts]
        buffers.stack(len(lean.layers), lean.groups, lean.size, lean.embed.weight)
        reading = Reading(self, buffers, first, lengths, PATIENCE)
        reading.single = float("inf")  # it is read once, and with help
        reading.ids[:] = [token for prompt in prompts for token in prompt]
        reading.columns[:] = np.concatenate([np.arange(buffers.end - length, buffers.end) for length in lengths])
        reading.starts[:] = np.repeat(np.array(buffers.starts[first:]), lengths)
        return reading()


def _added(lean: LlamaForward, plan: Plan, rows: int) -> tuple[Array, Array, Array, Array]:
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
