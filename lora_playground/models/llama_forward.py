"""A forward pass of Llama-like models with little around the arithmetic, for decoding.

For models of a few million parameters most of transformers' time per token is Python, not products. This pass reads
the very same weights, is compared with transformers' own logits before it is used, and declines every model, layer or
hook that it does not know. It knows nothing of sampling or of who is asking.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from lora_playground.models.batched_lora import Lookup, Plan, Replaced
from lora_playground.models.fused import Matrices, matrices
from lora_playground.models.kv_cache import Buffers, Window

KINDS = ("llama", "mistral", "qwen2", "qwen3")
TOLERANCE = 1e-4
"""Largest difference to transformers' logits, against the largest: in float32; 300 times that in half precision."""

Way = Literal["whole", "spread", "fused"]
"""How a step multiplies a few rows by W: all at once, a core for each, or in one compiled call (`models.fused`)."""

log = logging.getLogger(__name__)


class Group:
    """Projections that read the same input: names, weights and biases.

    Attributes:
        matrix: (in, sum of outs) so that x·matrix is all of them at once; None before `arrange`, unless there is only
            one and it lies well as it is.
        bias: all biases side by side, where there are any.
    """

    def __init__(self, prefix: str, module: Any, names: tuple[str, ...]) -> None:
        self.names = tuple(prefix + name for name in names)
        self.linears: list[nn.Linear] = [getattr(module, name) for name in names]
        self.widths = [linear.weight.shape[0] for linear in self.linears]
        self.matrix = self.linears[0].weight.t() if len(names) == 1 else None
        self.bias = self.linears[0].bias if len(names) == 1 else None

    def arrange(self) -> None:
        """Lets the weights be views of one tensor, in the order in which few rows are multiplied fastest. Nothing is
        copied for good, and nobody who reads the weights sees another number."""
        weights = [linear.weight for linear in self.linears]
        wide = sum(self.widths) >= weights[0].shape[1] and weights[0].device.type == "cpu"
        if len(weights) == 1 and not wide:
            return
        whole = torch.cat([weight.data for weight in weights])
        self.matrix = whole.t().contiguous() if wide else whole.t()
        for weight, part in zip(weights, self.matrix.split(self.widths, 1)):
            weight.data = part.t()
        biases = [linear.bias for linear in self.linears]
        if len(biases) > 1 and all(bias is not None for bias in biases):
            self.bias = torch.cat([bias.data for bias in biases])
            for bias, one in zip(biases, self.bias.split(self.widths)):
                bias.data = one


@dataclass
class _Layer:
    """Tensors and names of one decoder layer."""

    prefix: str
    before: nn.Module
    after: nn.Module
    qkv: Group
    o: Group
    gate_up: Group
    down: Group
    q_norm: nn.Module | None
    k_norm: nn.Module | None


class LlamaForward:
    """The pass for one model. Make it by `lean`, which checks that it fits."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.inner, self.head = model.model, model.lm_head
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.share = self.heads // self.groups
        self.size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.scale = self.size**-0.5
        self.embed: nn.Embedding = self.inner.embed_tokens
        self.norm: nn.Module = self.inner.norm
        positions = torch.arange(config.max_position_embeddings, device=self.embed.weight.device)[None]
        with torch.no_grad():
            cos, sin = self.inner.rotary_emb(self.embed.weight[:1], position_ids=positions)
        half = self.size // 2
        # rotate_half(x) · sin = roll(x) · (−sin, sin), so that one rotation is three operations.
        self.cos, self.sin = cos[0], torch.cat([-sin[0][:, :half], sin[0][:, half:]], -1)
        self.layers = [_layer(layer, f"model.layers.{index}.") for index, layer in enumerate(self.inner.layers)]
        self.last = Group("", model, ("lm_head",))
        self.way: Way = "whole"
        self.fused: Matrices | None = None

    def arrange(self) -> None:
        """Puts the weights of neighbours side by side, so that a token takes fewer and faster products; for a model
        that is only read from now on."""
        with torch.no_grad():
            for group in self.every_group:
                group.arrange()

    def fuse(self) -> bool:
        """Lays the weights out for the way 'fused', for a model that is only read from now on; whether it could."""
        self.fused = matrices(self)
        return self.fused is not None

    @property
    def every_group(self) -> list[Group]:
        """All projections, the head last."""
        layers = [group for layer in self.layers for group in (layer.qkv, layer.o, layer.gate_up, layer.down)]
        return [*layers, self.last]

    def __call__(
        self, window: Window, plan: Plan, ids: torch.Tensor, starts: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """ids (R, T) at the window's end, starts (R, 1), positions (R, T); logits (R, V) of the last column."""
        R, T = ids.shape
        operations = plan.operations
        window.buffers.stack(len(self.layers), self.groups, self.size, self.embed.weight)
        device = self.cos.device
        ids, positions = ids.to(device), positions.to(device)
        x = F.embedding(ids, self.embed.weight)
        if "model.embed_tokens" in operations:
            module, operation = operations["model.embed_tokens"]
            assert isinstance(operation, Lookup)
            x = operation.add(module, ids, x)
        cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        mask = self._mask(window, starts, T)
        for index, layer in enumerate(self.layers):
            h = _normed(x, layer.before, layer.prefix + "input_layernorm", operations)
            qkv = _projected(h, layer.qkv, plan).view(R, T, self.heads + 2 * self.groups, self.size)
            both = qkv[:, :, : -self.groups]
            if layer.q_norm is not None and layer.k_norm is not None:
                q = _normed(both[:, :, : self.heads], layer.q_norm, layer.prefix + "self_attn.q_norm", operations)
                k = _normed(both[:, :, self.heads :], layer.k_norm, layer.prefix + "self_attn.k_norm", operations)
                both.copy_(torch.cat([q, k], 2))
            turned = both.roll(self.size // 2, -1)
            both.mul_(cos).addcmul_(turned, sin)
            keys, values = window.write(qkv[:, :, self.heads :], index)
            a = F.scaled_dot_product_attention(self._queries(qkv), keys, values, attn_mask=mask, scale=self.scale)
            if T > 1:
                a = a.view(R, self.groups, self.share, T, self.size).permute(0, 3, 1, 2, 4)
            x = _added(x, a.reshape(R, T, -1), layer.o, plan)
            h = _normed(x, layer.after, layer.prefix + "post_attention_layernorm", operations)
            gate, up = _projected(h, layer.gate_up, plan).chunk(2, -1)
            x = _added(x, F.silu(gate).mul_(up), layer.down, plan)
        x = _normed(x[:, -1:], self.norm, "model.norm", operations)
        return _projected(x, self.last, plan)[:, -1].float()

    def _queries(self, qkv: torch.Tensor) -> torch.Tensor:
        """(R, groups, share·T, size): the query heads that share a key head stand in for more queries, so that no key
        is copied."""
        R, T = qkv.shape[:2]
        q = qkv[:, :, : self.heads]
        if T == 1:
            return q.view(R, self.groups, self.share, self.size)
        q = q.view(R, T, self.groups, self.share, self.size).permute(0, 2, 3, 1, 4)
        return q.reshape(R, self.groups, self.share * T, self.size)

    def _mask(self, window: Window, starts: torch.Tensor, T: int) -> torch.Tensor | None:
        """(R, 1, share·T, columns): a query sees its row's columns up to its own; padding sees itself, so that no
        softmax is empty."""
        if T == 1 and int(starts.max()) <= window.begin:
            return None
        columns = torch.arange(window.begin, window.end + T)
        own = columns[-T:, None]
        seen = ((columns >= starts[:, :, None]) & (columns <= own)) | (columns == own)
        return seen[:, None].repeat(1, 1, self.share, 1).to(self.cos.device)


def _projected(x: torch.Tensor, group: Group, plan: Plan) -> torch.Tensor:
    """W x + b + what the plan adds, for projections of one x (R, T, in), side by side: (R, T, sum of outs)."""
    R, T, _ = x.shape
    flat = x.reshape(R * T, -1)
    if group.matrix is None:
        y = torch.cat([F.linear(flat, linear.weight, linear.bias) for linear in group.linears], -1)
    elif group.bias is None:
        y = flat.mm(group.matrix)
    else:
        y = torch.addmm(group.bias, flat, group.matrix)
    if plan.operations:
        _update(flat, y, R, group, plan)
    return y.view(R, T, -1)


def _added(to: torch.Tensor, x: torch.Tensor, group: Group, plan: Plan) -> torch.Tensor:
    """to + W x + b + what the plan adds, for one projection of x (R, T, in)."""
    R, T, out = to.shape
    flat = x.reshape(R * T, -1)
    assert group.matrix is not None
    y = torch.addmm(to.view(R * T, out), flat, group.matrix)
    if group.bias is not None:
        y += group.bias
    if plan.operations:
        _update(flat, y, R, group, plan)
    return y.view(R, T, out)


def _update(x: torch.Tensor, y: torch.Tensor, R: int, group: Group, plan: Plan) -> None:
    """Adds a plan's ΔW x to y (R·T, sum of outs), in place; x (R·T, in)."""
    joint = plan.joint(group.names, group.widths)
    T = x.shape[0] // R
    if joint is None:
        first = 0
        for name, width in zip(group.names, group.widths):
            if name in plan.operations:
                part = y[:, first : first + width].view(R, T, width)
                plan.operations[name][1].add(x.view(R, T, -1), part)  # type: ignore[call-arg, arg-type]
            first += width
        return
    alpha = 1.0
    if joint.run is not None:  # one adapter on neighbouring rows: the others are left out of the products
        first, count, alpha = joint.run
        x, y = x.narrow(0, first * T, count * T), y.narrow(0, first * T, count * T)
        t = x.mm(joint.At)
    else:
        t = x.mm(joint.At)
        if joint.scale is not None:
            t = t.mul_(joint.scale) if T == 1 else (t.view(R, T, -1) * joint.scale[:, None]).view(R * T, -1)
    if joint.narrow:
        y.addmm_(t, joint.block(), alpha=alpha)
        return
    for Bt, (low, high), (start, end) in zip(joint.Bts, joint.columns, joint.places):
        y[:, start:end].addmm_(t[:, low:high], Bt, alpha=alpha)


def _normed(x: torch.Tensor, norm: nn.Module, name: str, operations: dict[str, Any]) -> torch.Tensor:
    weight: torch.Tensor = norm.weight  # type: ignore[assignment]
    epsilon: float = norm.variance_epsilon  # type: ignore[assignment]
    if x.dtype != torch.float32:  # as transformers does it: normalise in float32, round, then scale
        y = weight * F.rms_norm(x.float(), (x.shape[-1],), None, epsilon).to(x.dtype)
    elif x.device.type == "cpu":
        # (x, −x) has mean 0 and the variance mean(x²): layer_norm is one operation where rms_norm is seven.
        size = x.shape[-1]
        y = F.layer_norm(torch.cat([x, -x], -1), (2 * size,), None, None, epsilon)[..., :size] * weight
    else:
        y = F.rms_norm(x, (x.shape[-1],), weight, epsilon)
    if name in operations:
        module, operation = operations[name]
        assert isinstance(operation, Replaced)
        y = operation.add(module, x, y)
    return y


def _layer(layer: Any, prefix: str) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        prefix,
        layer.input_layernorm,
        layer.post_attention_layernorm,
        Group(prefix + "self_attn.", attention, ("q_proj", "k_proj", "v_proj")),
        Group(prefix + "self_attn.", attention, ("o_proj",)),
        Group(prefix + "mlp.", mlp, ("gate_proj", "up_proj")),
        Group(prefix + "mlp.", mlp, ("down_proj",)),
        getattr(attention, "q_norm", None),
        getattr(attention, "k_norm", None),
    )


def known(model: Any) -> bool:
    """Whether every part of the model is one that this pass knows, untouched by hooks, wrappers or quantisation."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in KINDS or not type(model).__name__.endswith("ForCausalLM"):
        return False
    if getattr(config, "hidden_act", None) != "silu" or (
        getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    ):
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") in ("dynamic", "longrope") or rope.get("partial_rotary_factor", 1.0) != 1.0:
        return False
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return False
        leaf = name.rpartition(".")[2]
        if (leaf.endswith("_proj") or leaf == "lm_head") and type(module) is not nn.Linear:
            return False
        if leaf == "embed_tokens" and type(module) is not nn.Embedding:
            return False
    return True


def lean(model: Any) -> LlamaForward | None:
    """The pass for a model, compared once with transformers' logits; None where it does not fit or does not agree."""
    if not known(model):
        return None
    try:
        made = LlamaForward(model)
        difference = _difference(model, made)
    except (AttributeError, RuntimeError, TypeError, ValueError, IndexError) as error:
        log.info("The lean pass does not fit %s: %s", type(model).__name__, error)
        return None
    limit = TOLERANCE if next(model.parameters()).dtype == torch.float32 else 300 * TOLERANCE
    if not difference <= limit:
        log.warning(
            "The lean pass differs from transformers by %.2g on %s; not used.", difference, type(model).__name__
        )
        return None
    return made


@torch.no_grad()
def _difference(model: Any, made: LlamaForward) -> float:
    """Largest difference of logits, against the largest, over a left-padded prompt of two rows and one more token."""
    vocabulary = made.embed.weight.shape[0]
    lengths = (7, 4)
    prompts = [[(index * 7919 + 13 * row + 5) % vocabulary for index in range(n + 1)] for row, n in enumerate(lengths)]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        buffers, plan = Buffers(), Plan({}, 2)
        buffers.make_room(2, 7)
        buffers.starts, buffers.rows = [0, 3], 2
        starts = torch.tensor(buffers.starts)[:, None]
        ids = torch.tensor([prompts[0][:7], [0] * 3 + prompts[1][:4]])
        positions = (torch.arange(7)[None] - starts).clamp_min(0)
        got = [made(Window(buffers, 0, 2, 0, 0), plan, ids, starts, positions)]
        buffers.end = 7
        last = torch.tensor([[prompts[0][7]], [prompts[1][4]]])
        got.append(made(Window(buffers, 0, 2, 0, 7), plan, last, starts, 7 - starts))
        worst = 0.0
        for row, n in enumerate(lengths):
            device = made.embed.weight.device
            whole = model(input_ids=torch.tensor([prompts[row]], device=device), use_cache=False).logits[0].float()
            for step, logits in enumerate(got):
                expected = whole[n - 1 + step]
                worst = max(worst, float((logits[row] - expected).abs().max() / expected.abs().max().clamp_min(1e-9)))
        return worst
    finally:
        for module in training:
            module.training = True
