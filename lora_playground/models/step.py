"""One token for every row of a batch, through buffers and views that are made once for a composition of the batch.

At a few million parameters a token's time is mostly calls, not arithmetic; here a layer takes about twenty. It knows
the lean pass's weights and a plan; whatever it does not know `step` declines, and the lean pass itself answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lora_playground.models import fused
from lora_playground.models.batched_lora import Linear, Plan
from lora_playground.models.fused import Fused
from lora_playground.models.kv_cache import Buffers
from lora_playground.models.llama_forward import Group, LlamaForward


@dataclass
class _Added:
    """What a plan adds to one group's output: t = x·At, then every (part of y, part of t, Bt)."""

    At: torch.Tensor
    t: torch.Tensor
    scale: torch.Tensor | None
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    alpha: float

    def add(self, x: torch.Tensor) -> None:
        """x (R, in); the output's rows are changed in place."""
        torch.mm(x, self.At, out=self.t)
        if self.scale is not None:
            self.t.mul_(self.scale)
        for y, t, Bt in self.parts:
            y.addmm_(t, Bt, alpha=self.alpha)


@dataclass
class _Layer:
    """Tensors of one decoder layer."""

    before: torch.Tensor
    after: torch.Tensor
    epsilon: tuple[float, float]
    groups: tuple[Group, Group, Group, Group]
    added: tuple[_Added | None, ...]


class Step:
    """Made by `step` for one plan; usable for as long as rows and plan stay."""

    def __init__(self, lean: LlamaForward, plan: Plan, rows: int) -> None:
        self.lean, self.rows = lean, rows
        d, size, heads, groups = lean.embed.weight.shape[1], lean.size, lean.heads, lean.groups
        new = lean.embed.weight.new_zeros
        # The residual stream beside its negative: their layer_norm is x's RMS norm, see `lean`.
        self.double = new(rows, 2 * d)
        self.x, self.minus = self.double[:, :d], self.double[:, d:]
        self.pair, self.signs = self.double.view(rows, 2, d), torch.tensor([[1.0], [-1.0]])
        self.qkv = new(rows, (heads + 2 * groups) * size)
        self.a = new(rows, heads * size)
        widths = lean.layers[0].gate_up.widths
        self.gate_up, self.s = new(rows, sum(widths)), new(rows, widths[0])
        self.gate, self.up = self.gate_up.split(widths, 1)
        self.y = new(rows, d)
        self.y1 = self.y.unsqueeze(1)
        outputs = (self.qkv, self.y, self.gate_up, self.y)
        by_head = self.qkv.view(rows, heads + 2 * groups, size)
        self.plain_q, self.plain_k, self.v = by_head.split([heads, groups, groups], 1)
        self.q, self.k = new(rows, heads, size), new(rows, groups, size)
        # Queries that share a key head stand in for more queries.
        self.q3 = self.q.view(rows * groups, lean.share, size)
        self.a3 = self.a.view(rows * groups, lean.share, size)
        # One product for each row, side by side on as many cores; else one product for all.
        self.spread = lean.way == "spread" and 1 < rows <= torch.get_num_threads()
        # x·turn is x with every head rotated: cos on the diagonal, ±sin half a head beside it.
        self.turn = new(rows, size, size)
        half = size // 2
        self.diagonals = [self.turn.diagonal(offset, 1, 2) for offset in (0, -half, half)]
        self.layers = []
        for layer in lean.layers:
            members = (layer.qkv, layer.o, layer.gate_up, layer.down)
            added = tuple(_added(group, plan, y) for group, y in zip(members, outputs))
            norms = (layer.before, layer.after)
            weights = [_twice(norm) for norm in norms]
            epsilon = tuple(norm.variance_epsilon for norm in norms)
            self.layers.append(_Layer(weights[0], weights[1], epsilon, members, added))  # type: ignore[arg-type]
        self.last = _twice(lean.norm)
        self._bias: torch.Tensor | None = None
        self._bias_for: tuple[tuple[int, ...], int] | None = None

    def __call__(self, buffers: Buffers, ids: list[int]) -> torch.Tensor:
        """Reads a token a row at the end of the buffers; logits (R, V), float32. The caller moves the end."""
        lean, x, minus, double = self.lean, self.x, self.minus, self.double
        d, begin, end = x.shape[1], buffers.begin, buffers.end
        x.copy_(torch.embedding(lean.embed.weight, torch.tensor(ids)))
        torch.neg(x, out=minus)
        self._rotation([end - start for start in buffers.starts])
        bias = self._mask(buffers)
        K, V, new_k, new_v = self._views(buffers, begin, end)
        for index, layer in enumerate(self.layers):
            qkv, o, gate_up, down = layer.groups
            h = torch.layer_norm(double, (2 * d,), layer.before, None, layer.epsilon[0])[:, :d]
            self._multiply(h, qkv, self.qkv, layer.added[0])
            torch.bmm(self.plain_q, self.turn, out=self.q)
            torch.bmm(self.plain_k, self.turn, out=self.k)
            new_k[index].copy_(self.k)
            new_v[index].copy_(self.v)
            scores = torch.baddbmm(bias, self.q3, K[index], alpha=lean.scale)
            torch.bmm(torch.softmax(scores, -1), V[index], out=self.a3)
            self._multiply(self.a, o, self.y, layer.added[1])
            self.pair.addcmul_(self.y1, self.signs)
            h = torch.layer_norm(double, (2 * d,), layer.after, None, layer.epsilon[1])[:, :d]
            self._multiply(h, gate_up, self.gate_up, layer.added[2])
            torch.ops.aten.silu.out(self.gate, out=self.s).mul_(self.up)
            self._multiply(self.s, down, self.y, layer.added[3])
            self.pair.addcmul_(self.y1, self.signs)
        h = torch.layer_norm(double, (2 * d,), self.last, None, lean.norm.variance_epsilon)[:, :d]  # type: ignore[arg-type]
        logits = torch.empty(self.rows, sum(lean.last.widths))
        self._multiply(h, lean.last, logits, None)
        return logits

    def _multiply(self, x: torch.Tensor, group: Group, out: torch.Tensor, added: _Added | None) -> None:
        """W x + b + what the plan adds, into `out`."""
        assert group.matrix is not None
        if self.spread:
            torch.bmm(x.unsqueeze(1), group.matrix.expand(self.rows, -1, -1), out=out.unsqueeze(1))
            if group.bias is not None:
                out += group.bias
        elif group.bias is None:
            torch.mm(x, group.matrix, out=out)
        else:
            torch.addmm(group.bias, x, group.matrix, out=out)
        if added is not None:
            added.add(x)

    def _rotation(self, positions: list[int]) -> None:
        at = torch.tensor(positions)
        cos, sin = self.lean.cos[at], self.lean.sin[at]
        half = cos.shape[1] // 2
        straight, below, above = self.diagonals
        straight.copy_(cos)
        below.copy_(sin[:, :half])
        above.copy_(sin[:, half:])

    def _views(self, buffers: Buffers, begin: int, end: int) -> tuple[tuple[torch.Tensor, ...], ...]:
        """For every layer: keys (R·groups, size, n), values (R·groups, n, size), and where the new ones go."""
        assert buffers.whole is not None
        mine = buffers.whole[:, :, : self.rows]
        keys, values = mine.narrow(4, begin, end + 1 - begin).flatten(2, 3).unbind(1)
        new_k, new_v = mine.select(4, end).unbind(1)
        return keys.transpose(2, 3).unbind(0), values.unbind(0), new_k.unbind(0), new_v.unbind(0)

    def _mask(self, buffers: Buffers) -> torch.Tensor:
        """(R·groups, 1, n): −inf where a row has not begun, else 0."""
        begin, end = buffers.begin, buffers.end
        key = tuple(buffers.starts), buffers.columns
        if self._bias is None or self._bias_for != key:
            before = torch.arange(buffers.columns)[None] < torch.tensor(buffers.starts)[:, None]
            bias = torch.zeros(before.shape).masked_fill_(before, float("-inf"))
            self._bias, self._bias_for = bias.repeat_interleave(self.lean.groups, 0)[:, None], key
        return self._bias.narrow(2, begin, end + 1 - begin)


def _twice(norm: nn.Module) -> torch.Tensor:
    weight: torch.Tensor = norm.weight.data  # type: ignore[union-attr, assignment]
    return torch.cat([weight, weight])


def _added(group: Group, plan: Plan, y: torch.Tensor) -> _Added | None:
    """What the plan adds to y (R, sum of outs)."""
    joint = plan.joint(group.names, group.widths)
    if joint is None:
        return None
    t = y.new_zeros(y.shape[0], joint.At.shape[1])
    first, count, alpha = joint.run or (0, y.shape[0], 1.0)
    rows = slice(first, first + count)
    if joint.narrow:
        parts = [(y[rows], t[rows], joint.block())]
    else:
        parts = [
            (y[rows, start:end], t[rows, low:high], Bt)
            for Bt, (low, high), (start, end) in zip(joint.Bts, joint.columns, joint.places)
        ]
    return _Added(joint.At, t, None if joint.run else joint.scale, parts, alpha)


def step(lean: LlamaForward | None, plan: Plan, rows: int) -> Step | Fused | None:
    """The fast step for this plan, None where something in it needs the pass that knows everything."""
    if lean is None or lean.embed.weight.device.type != "cpu" or lean.embed.weight.dtype != torch.float32:
        return None
    names: set[str] = set()
    for layer in lean.layers:
        if layer.q_norm is not None or layer.k_norm is not None:
            return None
        for group in (layer.qkv, layer.o, layer.gate_up, layer.down):
            if group.matrix is None or (group.bias is None and any(one.bias is not None for one in group.linears)):
                return None
            names.update(group.names)
    known = all(
        name in names and isinstance(operation, Linear) and operation.plain
        for name, (_, operation) in plan.operations.items()
    )
    if not known or lean.last.matrix is None:
        return None
    if lean.way == "fused" and lean.fused is not None and rows <= fused.ROWS:
        plan.fused = plan.fused or Fused(lean, lean.fused, plan, rows)
        return plan.fused  # type: ignore[no-any-return]
    return Step(lean, plan, rows)
