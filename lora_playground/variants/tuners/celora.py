"""CE-LoRA as a PEFT method: plain LoRA whose frozen layers pass back an approximated gradient, to save arithmetic.

The forward pass and the gradients of A and B (given dY) are exact. The gradient of the input, dY·W, is replaced by
(dY·B₀)·A₀ + dY[:, I]·(W − B₀A₀)[I, :] with few rows I. After `Woooooow-Pro/CE-LoRA-Submit`, with its defects mended:
the importance uses the norms of dY's columns, and rows are chosen again by optimiser steps, not by forward passes.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from torch import nn

from lora_playground.variants.celora_rows import frozen_directions, rows_kept
from lora_playground.variants.tuners.layer import WrappedLinear, WrappedModel
from lora_playground.variants.tuners.registration import register


@dataclass
class CeLoraConfig(PeftConfig):
    """Options of the method.

    Attributes:
        ratio_attention, ratio_mlp, ratio_other, tilt: shares of W's rows kept in dX; see `celora_rows.kept_share`.
        depth: decoder layers of the model; 0 leaves the tilt out.
        frozen_rank: rank q of the frozen split B₀A₀ (Double-LoRA); None takes 7/8 of r.
        amm: whether dX is approximated at all.
        double_lora: whether the split is used; off means B₀A₀ = 0.
        only_where_it_saves: whether a module whose kept rows would save no arithmetic stays exact.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    ratio_attention: float = 0.55
    ratio_mlp: float = 0.65
    ratio_other: float = 1.0
    tilt: float = 0.0
    depth: int = 0
    frozen_rank: int | None = None
    amm: bool = True
    double_lora: bool = True
    only_where_it_saves: bool = False
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    bias: str = field(default="none")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = CELORA
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]


class Approximation:
    """How one layer's dX is computed: the split B₀A₀, the chosen rows I, and the norms that choose them.

    Attributes:
        rows: I, ascending (k,), or None while dX is exact.
        collect: whether the next backward passes add up the squared norms of dY's columns.
    """

    def __init__(self, out_features: int, keep: int) -> None:
        self.keep = keep
        self.exact = self.keep >= out_features
        self.rows: torch.Tensor | None = None
        self.collect = not self.exact
        self.squares: torch.Tensor | None = None
        self.B0: torch.Tensor | None = None
        self.A0: torch.Tensor | None = None
        self._norms: torch.Tensor | None = None  # of the rows of Ws, which never change
        self._right: torch.Tensor | None = None
        self._buffer: torch.Tensor | None = None

    def split(self, weight: torch.Tensor, rank: int) -> None:
        """B₀A₀, the rank-q part of W (m, n) by SVD, with √σ on either side; randomised where W is large."""
        if rank >= min(weight.shape) or min(weight.shape) <= 512:
            u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        else:
            with torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []):
                u, s, v = torch.svd_lowrank(weight, q=min(rank + 8, min(weight.shape)), niter=4)
            vt = v.T
        root = s[:rank].sqrt()
        self.B0, self.A0, self._norms = u[:, :rank] * root, root[:, None] * vt[:rank], None

    def observe(self, dy: torch.Tensor) -> None:
        """Adds the squared column norms of dY (T, m)."""
        squares = dy.float().square().sum(dim=0)
        self.squares = squares if self.squares is None else self.squares + squares

    def choose(self, weight: torch.Tensor) -> None:
        """I = the k rows with the largest ‖dY[:, i]‖·‖Ws[i, :]‖, Ws = W − B₀A₀."""
        if self.exact or self.squares is None:
            return
        if self._norms is None:
            split = self.B0 is not None and self.A0 is not None
            self._norms = (weight - self.B0 @ self.A0 if split else weight).norm(dim=1)  # type: ignore[operator]
        self.keep_rows(weight, (self.squares.sqrt() * self._norms).topk(self.keep).indices.sort().values)

    def keep_rows(self, weight: torch.Tensor, rows: torch.Tensor) -> None:
        """Takes these rows as I, and keeps A₀ and Ws[I] for the next backward passes."""
        if self.B0 is None or self.A0 is None:
            self._right = weight[rows]
        else:
            self._right = torch.cat([self.A0, torch.addmm(weight[rows], self.B0[rows], self.A0, alpha=-1)])
        self.rows = rows
        self.squares, self.collect, self._buffer = None, False, None

    def thin(self, b: torch.Tensor, scale: float, kind: torch.dtype, split: bool) -> torch.Tensor:
        """[s·Bᵀ; B₀ᵀ] (r + q, m), or s·Bᵀ alone: laid out along the long side, where dY times it is much faster."""
        ours = b.T.to(kind) * scale
        if not split or self.B0 is None:
            return ours.contiguous()
        return torch.cat([ours, self.B0.T.to(kind)])

    def right(self, a: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        """[A; A₀; Ws[I]] (r + q + k, n) in dtype `kind`; only A is copied in at each call."""
        assert self._right is not None
        size, held = self._right.shape[0] + a.shape[0], self._buffer
        if held is None or held.dtype != kind or held.shape[0] != size:
            held = self._buffer = torch.cat([a.to(kind), self._right.to(kind)])
            self._right = held[a.shape[0] :]  # not kept twice
        else:
            held[: a.shape[0]].copy_(a)
        return held


class _ApproximateLinear(torch.autograd.Function):
    """y = base(x) + s·B·A·xd; see the module's docstring for dX. xd is x after dropout, or x itself."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, dropped: torch.Tensor, a: torch.Tensor, b: torch.Tensor, layer: Any, scale: float
    ) -> torch.Tensor:
        base = layer.base_layer(x)
        kind = base.dtype
        hidden = dropped.reshape(-1, dropped.shape[-1]).to(kind) @ a.T.to(kind)
        ctx.save_for_backward(dropped, hidden, a, b)
        ctx.layer, ctx.scale, ctx.same = layer, scale, dropped is x
        return base.reshape(-1, base.shape[-1]).addmm_(hidden, b.T.to(kind), alpha=scale).view(base.shape)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> Any:  # type: ignore[override]
        dropped, hidden, a, b = ctx.saved_tensors
        kind, r = dy.dtype, a.shape[0]
        flat = dy.reshape(-1, dy.shape[-1])
        inputs = dropped.reshape(-1, dropped.shape[-1]).to(kind)
        state: Approximation = ctx.layer.approximation
        if state.collect:
            state.observe(flat)
        wanted = ctx.needs_input_grad[0]
        through = flat @ state.thin(b, ctx.scale, kind, wanted and state.rows is not None).T  # [s·dY·B, dY·B₀]
        g = through[:, :r]
        grad_a = (g.T @ inputs).to(a.dtype) if ctx.needs_input_grad[2] else None
        grad_b = None
        if ctx.needs_input_grad[3]:
            grad_b = torch.mm(hidden.T, flat).T.mul(ctx.scale).to(b.dtype)
        dx = dropped_grad = None
        if wanted and state.rows is not None:
            # One product for all parts of dX. After dropout, LoRA's own part belongs to another input.
            skip = 0 if ctx.same else r
            left = torch.cat([through[:, skip:], flat.index_select(1, state.rows)], dim=1)
            dx = left @ state.right(a, kind)[skip:]
        elif wanted:
            dx = flat @ ctx.layer.stored_weight(kind)
            if ctx.same:
                dx.addmm_(g, a.to(kind))
        if not ctx.same and ctx.needs_input_grad[1]:
            dropped_grad = (g @ a.to(kind)).reshape(dropped.shape).to(dropped.dtype)
        if dx is not None:
            dx = dx.reshape(*dy.shape[:-1], -1).to(dropped.dtype)
        return dx, dropped_grad, grad_a, grad_b, None, None


def loras_start(r: int, in_features: int, out_features: int) -> torch.Tensor:
    """A (r, n) as PEFT's LoRA draws it for this layer, with the draws that LoRA makes and drops, so that under one seed
    both begin at the same point and a comparison of their losses shows the approximation alone."""
    start = nn.Linear(in_features, r, bias=False).weight.detach()
    nn.Linear(r, out_features, bias=False)
    return nn.init.kaiming_uniform_(start, a=math.sqrt(5))


class CeLoraLayer(WrappedLinear):
    """One adapted linear layer."""

    adapter_layer_names = ("celora_A", "celora_B")
    other_param_names = ("celora_dropout", "scaling")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.celora_A = nn.ParameterDict()
        self.celora_B = nn.ParameterDict()
        self.celora_dropout = nn.ModuleDict()
        self.approximation = Approximation(self.out_features, self.out_features)

    def add(self, adapter: str, config: CeLoraConfig, name: str) -> None:
        """Makes A, B and the frozen split of one adapter; the approximation belongs to the layer."""
        r = config.r
        if not 1 <= r <= min(self.in_features, self.out_features):
            raise ValueError(f"r = {r} does not fit {name}: {self.out_features} × {self.in_features}")
        self.scaling[adapter] = config.alpha / r
        self.celora_dropout[adapter] = nn.Dropout(config.dropout) if config.dropout > 0 else nn.Identity()
        self.celora_A[adapter] = nn.Parameter(loras_start(r, self.in_features, self.out_features))
        self.celora_B[adapter] = nn.Parameter(torch.zeros(self.out_features, r))
        shape = (self.out_features, self.in_features)
        self.approximation = Approximation(self.out_features, rows_kept(name, shape, config, r))
        on_meta = self.get_base_layer().weight.device.type == "meta"
        if config.double_lora and not self.approximation.exact and not on_meta:
            self.approximation.split(self.full_weight(), frozen_directions(shape, config, r))
        self._move_adapter_to_device_of_base_layer(adapter)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def stored_weight(self, kind: torch.dtype) -> torch.Tensor:
        """W (m, n) in dtype `kind`, for an exact dX."""
        weight = self.get_base_weight()
        return (weight.T if self.transposed else weight).to(kind)

    def refresh(self) -> None:
        """Chooses the rows again if norms were collected."""
        if self.approximation.collect and self.approximation.squares is not None:
            self.approximation.choose(self.full_weight())

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        return self.scaling[adapter] * self.celora_B[adapter].float() @ self.celora_A[adapter].float()

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = [name for name in self.active_adapters if name in self.celora_A]
        if self.disable_adapters or self.merged or not active:
            return self.base_layer(x, *args, **kwargs)
        if len(active) > 1:
            raise ValueError("CE-LoRA runs one adapter at a time: its approximation belongs to the layer")
        name = active[0]
        dropped = self.celora_dropout[name](x)
        return _ApproximateLinear.apply(x, dropped, self.celora_A[name], self.celora_B[name], self, self.scaling[name])


class CeLoraModel(WrappedModel):
    """PEFT's tuner of the method."""

    prefix = "celora_"
    tuner_layer_cls = CeLoraLayer


CELORA = register("celora", CeLoraConfig, CeLoraModel)
