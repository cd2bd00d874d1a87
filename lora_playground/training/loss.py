"""The loss of a packed batch: the decoder runs once, the head only at positions whose next token is to be learned.

It knows no optimiser, no schedule and no events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lora_playground.data.encoding import Example
from lora_playground.data.packing import IGNORED, Batch, as_batch, pack
from lora_playground.training.attention import Segments

VALIDATION_BATCHES = 4
_CHUNK_ELEMENTS = 2**25
"""The most logits held at once (128 MiB in float32); if there are more, the head works in chunks."""


@dataclass(frozen=True)
class DeviceBatch:
    """A packed batch on the device.

    Attributes:
        inputs: keyword arguments of the decoder: input_ids (R, L), position_ids, attention_mask.
        places: (n,) flat indices of the hidden states that predict something; targets: (n,) what they predict.
    """

    inputs: dict[str, Any]
    places: torch.Tensor
    targets: torch.Tensor


class PackedLoss:
    """Computes the summed cross-entropy of packed batches of one model.

    When made, it checks on a few tokens that two examples packed into one row do not see each other, and that decoder
    and head alone give the model's own logits. Where the first fails, examples are not packed (`solo`); where the
    second fails, the model's own forward pass is used.

    Args:
        model: causal language model, possibly wrapped by PEFT.
        dtype: of the computation; bfloat16 runs under autocast.
        segmented: whether the model uses `attention.segment_attention`; becomes False if that fails the check.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, segmented: bool = False) -> None:
        self.model, self.dtype = model, dtype
        self.inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.decoder: Any = getattr(self.inner, self.inner.base_model_prefix, None)
        self.head: Any = self.inner.get_output_embeddings()
        self.device = next(model.parameters()).device
        self.window = _window(self.inner.config)
        self.float_mask = getattr(self.inner.config, "_attn_implementation", "sdpa") in ("sdpa", "eager")
        self.split = self.decoder is not None and self.head is not None
        self.solo = False
        self.segmented = segmented
        with torch.no_grad(), self.evaluation():
            self.split = self.split and self._head_is_all()
            self.segmented = self.segmented and self._packing_holds()
            self.solo = not self.segmented and not self._packing_holds()

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Evaluation mode inside the block."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def autocast(self) -> Any:
        """bfloat16 products around float32 trained weights, or nothing for float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def put(self, batch: Batch) -> DeviceBatch:
        """Copies a batch to the device. Indices are computed on the host, so that nothing waits for the device."""
        targets = torch.from_numpy(batch.targets).flatten()
        places = (targets != IGNORED).nonzero().squeeze(1)
        inputs: dict[str, Any] = {"input_ids": self._move(torch.from_numpy(batch.ids)), "use_cache": False}
        if self.segmented:
            inputs["position_ids"] = self._move(torch.from_numpy(batch.positions))
            inputs["segments"] = Segments(batch.segments)
            # transformers passes a mask of four dimensions on as it is, and makes none of its own.
            inputs["attention_mask"] = torch.zeros(1, 1, 1, 1, device=self.device)
        elif batch.segments.max(initial=0) > 1:
            inputs["position_ids"] = self._move(torch.from_numpy(batch.positions))
            if self.float_mask and (self.window is None or batch.ids.shape[1] <= self.window):
                segments = self._move(torch.from_numpy(batch.segments))
                inputs["attention_mask"] = block_mask(segments, self.dtype)  # in the dtype of the queries
        return DeviceBatch(inputs, self._move(places), self._move(targets[places]))

    def loss_sum(self, batch: DeviceBatch) -> torch.Tensor:
        """Σ −log p(target) over the learned tokens, float32 scalar; divide by their number for the mean."""
        with self.autocast():
            hidden = self._hidden(batch.inputs)
            picked = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.places)
            if not self.split:
                return _cross_entropy(picked, batch.targets)
            return self._head_loss(picked, batch.targets)

    def _head_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        vocabulary = self.head.weight.shape[0]
        chunk = max(1, _CHUNK_ELEMENTS // vocabulary)
        if len(targets) <= chunk:
            return _cross_entropy(self.head(hidden), targets)
        frozen = not any(parameter.requires_grad for parameter in self.head.parameters())
        if frozen and type(self.head) is nn.Linear and self.head.bias is None:
            return _FrozenHeadLoss.apply(hidden, self.head.weight, targets, chunk)
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            total = total + torch.utils.checkpoint.checkpoint(
                lambda h, t: _cross_entropy(self.head(h), t), hidden[part], targets[part], use_reentrant=False
            )
        return total

    def _hidden(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Last hidden states (R, L, d), or the logits (R, L, V) where decoder and head cannot be told apart."""
        if self.split:
            return self.decoder(**inputs).last_hidden_state
        return self.model(**inputs).logits

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _head_is_all(self) -> bool:
        """Whether decoder and head alone give the model's logits (no soft cap, no scale, nothing between)."""
        ids = torch.arange(8, device=self.device)[None] % self.head.weight.shape[0]
        with self.autocast():
            own = self.model(input_ids=ids, use_cache=False).logits.float()
            parts = self.head(self.decoder(input_ids=ids, use_cache=False).last_hidden_state).float()
        return own.shape == parts.shape and _close(own, parts, self.dtype)

    def _packing_holds(self) -> bool:
        """Whether the second of two packed examples gets the same hidden states as alone."""
        vocabulary = self.inner.get_input_embeddings().weight.shape[0]
        first, second = ((torch.arange(size) * 31 + 7).numpy() % vocabulary for size in (9, 6))
        examples = [Example(ids.astype("int32"), ids >= 0) for ids in (first, second)]
        together = self.put(as_batch([examples], 16, 1, 0))
        alone = self.put(as_batch([[examples[1]]], 16, 1, 0))
        alone.inputs.pop("segments", None)
        alone.inputs.pop("attention_mask", None)
        try:
            with self.autocast():
                packed = self._hidden(together.inputs)[0, 9:15].float()
                single = self._hidden(alone.inputs)[0, :6].float()
        except (TypeError, ValueError, RuntimeError):
            return False
        return _close(packed, single, self.dtype)


def block_mask(segments: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(R, 1, L, L) additive mask: 0 where a token attends (same example, not later), −inf elsewhere."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    seen = (segments[:, :, None] == segments[:, None, :]) & causal
    mask = torch.zeros(seen.shape, dtype=dtype, device=segments.device).masked_fill_(~seen, float("-inf"))
    return mask[:, None]


def mean_loss(loss: PackedLoss, batches: Sequence[Batch]) -> float | None:
    """Mean loss per learned token over the batches, in evaluation mode; None if there is nothing to learn."""
    learned = sum(batch.learned for batch in batches)
    if not learned:
        return None
    with torch.no_grad(), loss.evaluation():
        return float(sum(loss.loss_sum(loss.put(batch)) for batch in batches)) / learned


def validation_batches(examples: Sequence[Example], length: int, rows: int, pad: int, solo: bool) -> list[Batch]:
    """The first examples that fit into VALIDATION_BATCHES batches, so that they are the same each time."""
    chosen, left = [], VALIDATION_BATCHES * length * rows
    for example in examples:
        if len(example.ids) <= min(length, left):
            chosen.append(example)
            left -= len(example.ids)
    return pack(chosen, length, rows, pad, solo)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.float(), targets, reduction="sum")


def _close(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    tolerance = 1e-3 if dtype == torch.float32 else 6e-2
    return bool((one - other).abs().max() <= tolerance * other.abs().max().clamp_min(1e-6))


def _window(config: Any) -> int | None:
    """Tokens that the narrowest sliding or chunked attention sees, None if every layer sees all."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = getattr(text, "layer_types", None)
    if kinds is not None and not any("sliding" in kind or "chunked" in kind for kind in kinds):
        return None
    sizes = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((size for size in sizes if size), default=None)


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross-entropy through a frozen head in chunks. The gradient of the hidden states is computed in the forward pass,
    so that no logits are kept or computed twice."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int
    ) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = functional.linear(hidden[part].to(weight.dtype), weight).float()
            log_p = torch.log_softmax(logits, dim=-1)
            total += -log_p.gather(1, targets[part, None]).sum()
            p = log_p.exp_()
            p[torch.arange(len(p), device=p.device), targets[part]] -= 1
            gradient[part] = (p.to(weight.dtype) @ weight).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None
