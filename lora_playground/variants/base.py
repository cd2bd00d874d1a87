"""The base class of variants: a variant's options and card, and how it attaches, counts, extracts and saves.

Torch and PEFT are imported inside functions only, so that forms and flags can be built without them. It knows no
particular variant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.analysis.update import Update
from lora_playground.config import VariantConfig
from lora_playground.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Card:
    """The description of a variant that the user reads.

    Attributes:
        sentence: what it does, in one sentence.
        equation: LaTeX of the adapted layer.
        parameters: LaTeX of the number of trained parameters of one (out, in) module.
        frozen: the frozen parts, in words.
        paper: 'Authors, title, year'; url: where to read it.
        notes: pitfalls and exceptions, such as an output that differs from the base's at step 0.
    """

    sentence: str
    equation: str
    parameters: str
    frozen: str
    paper: str
    url: str
    notes: str = ""


@dataclass(frozen=True)
class Part:
    """One matrix of an adapted layer, in the picture on a variant's card.

    Attributes:
        name: 'B'. rows, columns: its shape.
        trained: whether it trains.
        before, after: signs drawn around it: '+', '·', ')'.
        pattern: which entries are drawn: '' all; 'diagonal'; 'blocks' along the diagonal; 'grid', all, cut into blocks
            along the longer side; 'scattered'.
        blocks: number of blocks in 'blocks' and 'grid'.
        numbers: how many of its entries train; None for all.
        again: whether it begins a new line of the picture.
    """

    name: str
    rows: int
    columns: int
    trained: bool = True
    before: str = ""
    after: str = ""
    pattern: str = ""
    blocks: int = 1
    numbers: int | None = None
    again: bool = False

    @property
    def count(self) -> int:
        """How many of its numbers train."""
        if not self.trained:
            return 0
        return self.rows * self.columns if self.numbers is None else self.numbers


def frozen_weight(shape: tuple[int, int], before: str = "") -> Part:
    """The part W of shape (out, in), which never trains."""
    return Part("W", *shape, trained=False, before=before)


@dataclass(frozen=True)
class Memory:
    """What a variant keeps in memory for an adapted (out, in) module beside its trained numbers: an input of
    `estimates.memory`, compared with the allocated memory by `benchmarks/memory_estimate.py`.

    Attributes:
        shared: whether the input x is kept; modules with the same x keep it once.
        inputs, outputs: further copies of x and of the output y, for each module.
        copies: matrices of W's shape, such as a ΔW or a rotated W that is formed. passing: more of them, but for one
            module at a time.
        squares: matrices (in, in). squares_by_rank: more of them, times the rank.
        frozen: numbers that are neither W nor trained, in units of a LoRA of this rank. trained: further numbers, in
            units of the trained ones.
    """

    shared: bool = True
    inputs: float = 0.0
    outputs: float = 0.0
    copies: float = 0.0
    passing: float = 0.0
    squares: float = 0.0
    squares_by_rank: float = 0.0
    frozen: float = 0.0
    trained: float = 0.0


@dataclass(frozen=True)
class Work:
    """Arithmetic of an adapted (out, in) = (m, n) module in a forward and a backward pass, beyond W's own and that of
    its trained numbers, as torch counts it (`tests/variants/test_flops.py`).

    Attributes:
        dense: per token, in units of m·n: products with a ΔW that is formed, in place of those with the trained
            numbers.
        frozen: per token, in units of r(m + n): products with factors that do not train.
        products: per pass, in units of r·m·n: products of factors that form a matrix.
        rotations: per pass, in units of m·n·n: products of W with a matrix (n, n).
    """

    dense: float = 0.0
    frozen: float = 0.0
    products: float = 0.0
    rotations: float = 0.0


RATES = {"adamw": 1.0, "muon": 2.5}
"""Optimiser → factor on AdamW's learning rate. Muon's: for LoRA on pirate 0.01 was the best of 0.005, 0.01 and 0.02."""


@dataclass
class Context:
    """What a variant may need to attach, beside the model and its options.

    Attributes:
        steps: planned optimiser steps (for AdaLoRA's schedule).
        seed: for start values.
        batches: training micro-batches, dicts of tensors, for data-driven starts (EVA, LoRA-GA, CorDA).
        bits: in which the base is stored: 16, 8 or 4.
    """

    steps: int = 0
    seed: int = 0
    batches: Sequence[dict[str, torch.Tensor]] = field(default_factory=list)
    bits: int = 16


@dataclass(frozen=True)
class Variant:
    """Base class of all variants. The defaults suit an additive PEFT method; a variant overrides what differs.

    Attributes:
        name, label: 'rslora', 'rsLoRA'.
        family: heading in the method list: 'LoRA', 'Initialisation', 'Decomposition', 'Orthogonal', 'Full', ...
        config: the Pydantic class of its options.
        card: its description for the user.
        learning_rate: default peak learning rate on the embedded model, which is small and needs large steps.
        real_rate: default peak learning rate on any other base: the paper's, or the usual one for LoRA.
        bits: the bits of a base that it supports, of 16, 8 and 4.
        identity_at_start: whether the adapted model equals the base before the first step, by default.
        low_rank: whether the options bound ΔW's rank (False: dense).
        memory, work: memory and arithmetic beyond that of the trained numbers.
    """

    name: str
    label: str
    family: str
    config: type[VariantConfig]
    card: Card
    learning_rate: float = 4e-3
    real_rate: float = 2e-4
    bits: tuple[int, ...] = (16, 8, 4)
    identity_at_start: bool = True
    low_rank: bool = True
    memory: Memory = Memory()
    work: Work = Work()

    def beside(self, adapted: dict[str, tuple[int, int]], config: Any) -> tuple[int, int]:
        """Numbers that the adapted modules {name: (out, in)} keep beyond `memory`: (in float32, in the computing
        dtype)."""
        return 0, 0

    def rate(self, source: str, optimiser: str = "adamw") -> float:
        """The default peak learning rate on a base model (`ModelConfig.source`) with an optimiser."""
        return (self.learning_rate if source == "embedded" else self.real_rate) * RATES[optimiser]

    def starts_as_base(self, config: Any) -> bool:
        """Whether with these options the adapted model equals the base before the first step."""
        return self.identity_at_start

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        """Checks the options against a model. Needs no torch: forms call it before anything is loaded.

        Args:
            shapes: {name: (out, in)} of the model's linear modules, without the output head.
            bits: in which the model is stored.

        Raises:
            ConfigError: an option does not fit.
        """
        if bits not in self.bits:
            stored = " or ".join(f"{b} bit" for b in self.bits)
            raise ConfigError(
                "model.quantisation",
                f"{bits}bit",
                f"{self.label} needs a base stored in {stored}; choose another variant",
            )

    def attach(self, model: torch.nn.Module, config: Any, context: Context) -> torch.nn.Module:
        """Freezes the base and adds the trainable update; returns the model to train (PEFT's wrapper, or `model`)."""
        raise NotImplementedError

    def count(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        """Trained parameters for modules of these (out, in) shapes, without building anything."""
        raise NotImplementedError

    def flops(self, name: str, shape: tuple[int, int], config: Any, tokens: int) -> float:
        """Floating-point operations of training an adapted module (out, in) on `tokens` tokens, forward and
        backward."""
        (m, n), r = shape, getattr(config, "rank", 1)
        trained = 0 if self.work.dense else 6 * self.count([shape], config)
        token = (4 + self.work.dense) * m * n + trained + self.work.frozen * r * (m + n)
        return tokens * token + (self.work.products * r + self.work.rotations * n) * m * n

    def saved(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        """How many numbers the saved adapter has, for modules of these (out, in) shapes: the trained ones, and those
        without which it could not be loaded outside this app."""
        return self.count(shapes, config)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        """The matrices of an adapted module (out, in), for the picture on the card: W + B·A, or W + ΔW without a
        rank."""
        (m, n), r = shape, getattr(config, "rank", None)
        if r is None:
            return frozen_weight(shape), Part("ΔW", m, n, before="+")
        return frozen_weight(shape), Part("B", m, r, before="+"), Part("A", r, n, before="·")

    def parameter_groups(self, model: torch.nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """AdamW groups; LoRA+ gives B a higher rate."""
        trained = [p for p in model.parameters() if p.requires_grad]
        return [{"params": trained, "lr": lr, "weight_decay": weight_decay}]

    def after_backward(self, model: torch.nn.Module, step: int) -> None:
        """Called once an optimiser step after clipping, before the optimiser steps (LoRA-FA's gradient rule)."""

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Called once after every optimiser step, from 1 (AdaLoRA's budget, CE-LoRA's refresh)."""

    def training_state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Tensors other than the trained parameters that training has changed, for a checkpoint. Called only between
        two steps."""
        return {}

    def restore_training_state(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Restores the tensors of `training_state`; `state` is empty if the checkpoint has none."""

    def updates(self, model: torch.nn.Module) -> list[Update]:
        """ΔW of every adapted module against the pristine W, as factors if it has them, else dense. Scaling and weight
        normalisation are folded in. Names are the base model's own module names, such as
        'model.layers.0.self_attn.q_proj'."""
        raise NotImplementedError

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Writes the adapter in PEFT's format, so that stock PEFT loads it on the pristine base."""
        raise NotImplementedError
