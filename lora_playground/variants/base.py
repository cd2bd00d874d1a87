"""What every variant declares and does: its options, its card, and how it attaches, counts, extracts and saves.

Torch and PEFT are imported inside functions only, so that forms and flags can be made without them. It knows no
single variant.
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
    """What a person reads about a variant.

    Attributes:
        sentence: what it does, in one sentence.
        equation: LaTeX of the adapted layer.
        parameters: LaTeX of the number of trained parameters of one (out, in) module.
        frozen: what stays frozen, in words.
        paper: 'Authors, title, year'; url: where to read it.
        notes: traps and exceptions, such as an output that changes at step 0.
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
    """One matrix of an adapted layer, as its card draws it.

    Attributes:
        name: 'B'. rows, columns: its shape.
        trained: whether it trains.
        before, after: signs around it: '+', '·', ')'.
        pattern: which entries there are: '' all; 'diagonal'; 'blocks' along the diagonal; 'grid', all, cut into blocks
            along the longer side; 'scattered'.
        blocks: how many.
        numbers: trained numbers in it, where those are not all its entries.
        again: starts a further line of the picture.
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
    """W of that (out, in), which never trains."""
    return Part("W", *shape, trained=False, before=before)


@dataclass(frozen=True)
class Memory:
    """What a variant keeps in memory for an adapted (out, in) module beside its trained numbers; `estimates.memory`
    reckons with it, `benchmarks/memory_estimate.py` holds it against what is allocated.

    Attributes:
        shared: whether x is kept, which modules that read the same x keep once.
        inputs, outputs: further copies of x and of y, of each module's own.
        copies: of W, such as a ΔW or a rotated W that is written out; passing: more of them, of one module at a time.
        squares: matrices (in, in); squares_by_rank: so many more for each rank.
        frozen: numbers that are neither W nor trained, in units of the size of a LoRA of that rank; trained: in units
            of what is trained.
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
    """Arithmetic of an adapted (out, in) = (m, n) module beyond W's own and that of its trained numbers: floating-point
    operations of a forward and a backward pass, as torch counts them (`tests/variants/test_flops.py`).

    Attributes:
        dense: for every token, in units of m·n: a ΔW that is written out and multiplied like W, where trained numbers
            are not multiplied with tokens themselves.
        frozen: for every token, in units of r(m + n): factors that do not train.
        products: for every pass, in units of r·m·n: products of factors that are written out.
        rotations: for every pass, in units of m·n·n: matrices (n, n) that W is multiplied by.
    """

    dense: float = 0.0
    frozen: float = 0.0
    products: float = 0.0
    rotations: float = 0.0


RATES = {"adamw": 1.0, "muon": 2.5}
"""By how much its learning rate exceeds AdamW's: for LoRA on pirate 0.01 was the best of 0.005, 0.01 and 0.02."""


@dataclass
class Context:
    """What a variant may need at attach time beside the model and its options.

    Attributes:
        steps: planned optimiser steps (AdaLoRA's schedule needs them).
        seed: for start values.
        batches: training micro-batches for data-driven starts (EVA, LoRA-GA, CorDA); dicts of tensors.
        bits: 16, 8 or 4, how the base is stored.
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
        card: what a person reads.
        learning_rate: default peak learning rate on the embedded model, which is small and wants large steps.
        real_rate: default peak learning rate on any other base: the paper's, or what is usual for LoRA.
        bits: which base storages it can take, of 16, 8, 4.
        identity_at_start: whether the adapted model equals the base before the first step, by default.
        low_rank: whether ΔW has a rank bound set by the options (False: dense).
        memory: what it keeps beside its trained numbers. work: what it computes beside them.
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
        """Numbers that adapted modules of these (out, in) keep beside what `memory` says: float32, and as computed."""
        return 0, 0

    def rate(self, source: str, optimiser: str = "adamw") -> float:
        """The default peak learning rate on that base model (a ModelConfig's source) with that optimiser."""
        return (self.learning_rate if source == "embedded" else self.real_rate) * RATES[optimiser]

    def starts_as_base(self, config: Any) -> bool:
        """Whether with these options the adapted model equals the base before the first step."""
        return self.identity_at_start

    def check(self, config: Any, shapes: Mapping[str, tuple[int, int]], bits: int = 16) -> None:
        """Raises ConfigError where the options do not fit a model with these linear modules (name → (out, in), the
        output head left out) stored in so many bits. Needs no torch: forms call it before anything is loaded."""
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
        """Floating-point operations of training an adapted module (out, in) on so many tokens, forward and backward."""
        (m, n), r = shape, getattr(config, "rank", 1)
        trained = 0 if self.work.dense else 6 * self.count([shape], config)
        token = (4 + self.work.dense) * m * n + trained + self.work.frozen * r * (m + n)
        return tokens * token + (self.work.products * r + self.work.rotations * n) * m * n

    def saved(self, shapes: Iterable[tuple[int, int]], config: Any) -> int:
        """Numbers in the saved adapter, for modules of these (out, in) shapes: those that it trains, unless more are
        needed to load it without this app."""
        return self.count(shapes, config)

    def parts(self, shape: tuple[int, int], config: Any) -> tuple[Part, ...]:
        """What an adapted module of that (out, in) is made of, to be drawn; W + B·A, or W + ΔW without a rank."""
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
        """What training has changed besides the trained parameters, for a checkpoint; only between two steps."""
        return {}

    def restore_training_state(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Sets what `training_state` gave; `state` is empty where a checkpoint has none."""

    def updates(self, model: torch.nn.Module) -> list[Update]:
        """ΔW of every adapted module against the pristine W, as factors where it has them, else dense. Scaling and
        weight normalisation are folded in. Names are the base model's own module names, such as
        'model.layers.0.self_attn.q_proj'."""
        raise NotImplementedError

    def save(self, model: torch.nn.Module, folder: Path) -> None:
        """Writes the adapter in PEFT's format, so that stock PEFT loads it on the pristine base."""
        raise NotImplementedError
