"""The arguments and the result of the training loop. It knows no loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_playground.analysis.update import Update
from lora_playground.config import TrainingConfig
from lora_playground.data.encoding import Example
from lora_playground.data.preparation import Prepared
from lora_playground.training.schedule import common_steps
from lora_playground.variants.base import Variant


@dataclass
class TrainPlan:
    """Everything `train` needs besides the model.

    Attributes:
        training: steps, batch, schedule, seed, ... as the person chose them.
        variant: its hooks are called and its updates are shown.
        train, validation, rehearsal: encoded examples.
        pad: token id for padding.
        learning_rate: peak; None takes the training config's, else the variant's for the embedded model.
        starts_as_base: whether the model computes what the base does before its first step. If not, the validation
            loss and the answers before that step are computed without its update, so that they are the base's.
        base_parameters: how many parameters the base model has; None counts all of the model that trains.
        rehearsal_share: share of tokens drawn from `rehearsal`.
        threads: CPU threads; None chooses the number by measuring the steps (`training.threads`).
        truncated, rows: examples cut to the length limit, and rows by split; only shown, in the plan event.
        on_spectra: updates → {module: singular values}; None takes `analysis.spectra`, False sends none.
        on_updates: (step, updates) whenever live spectra are taken of them.
        on_probe: (step, few) → the model's answers to the probe prompts at that step, each {'prompt', 'answer'};
            `few`: only two of the prompts, for a short run.
        after: seconds expected from the last step to the result; they count in the time left that is shown.
        remedies: what would lower the memory, the most useful first, for the error message when memory is full.
        hold_at: the step after which training stops as if the user had stopped it, with a checkpoint to continue from.
        watched: whether its curve is shown while it trains. If not, as in a sweep, it is validated after the same
            steps as the other runs (`common`).
        fused: use this app's faster passes for LoRA layers and attention, which give the same results.
    """

    training: TrainingConfig
    variant: Variant
    train: list[Example]
    validation: list[Example] = field(default_factory=list)
    rehearsal: list[Example] = field(default_factory=list)
    pad: int = 0
    learning_rate: float | None = None
    starts_as_base: bool = True
    base_parameters: int | None = None
    rehearsal_share: float = 0.0
    threads: int | None = None
    truncated: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    on_spectra: Callable[[list[Update]], dict[str, np.ndarray]] | bool | None = None
    on_updates: Callable[[int, list[Update]], None] = lambda *_: None
    on_probe: Callable[[int, bool], list[dict[str, Any]]] | None = None
    after: float = 0.0
    remedies: list[str] = field(default_factory=list)
    hold_at: int | None = None
    watched: bool = True
    fused: bool = True

    @classmethod
    def of(cls, prepared: Prepared, training: TrainingConfig, variant: Variant, pad: int, **others: Any) -> TrainPlan:
        """The plan for prepared data."""
        return cls(
            training,
            variant,
            prepared.train,
            prepared.validation,
            prepared.rehearsal,
            pad,
            rehearsal_share=prepared.share,
            truncated=prepared.truncated,
            rows=prepared.rows,
            **others,
        )

    @property
    def common(self) -> frozenset[int]:
        """The steps after which all runs of a sweep are validated; empty for a run that is watched."""
        return frozenset() if self.watched else common_steps(self.training)

    @property
    def peak_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        return self.learning_rate or self.training.learning_rate or self.variant.learning_rate


@dataclass
class TrainOutcome:
    """What training returns.

    Attributes:
        steps: optimiser steps done, of `planned`; stopped: whether the person stopped it.
        tokens: trained on in this attempt, without padding; tokens_per_second: over its pure training time.
        seconds: that this attempt took, validation and reports included.
        final_loss: mean of the last losses (at most 10); losses: of this attempt, one a step.
        validation_start, validation_end: loss of the base and of the trained model on the validation examples, None
            where there are none.
        trainable_parameters, total_parameters: how many are trained, and how many the base model has.
        peak_memory_bytes: on CUDA what torch allocated, else the process's largest resident set.
        tensor_bytes: the most that all tensors took at once, None if that was not measured (`training.memory`).
        report_seconds: spent on spectra; probe_seconds: on probes.
    """

    steps: int
    planned: int
    stopped: bool
    tokens: int
    tokens_per_second: float
    seconds: float
    final_loss: float
    losses: list[float]
    validation_start: float | None
    validation_end: float | None
    trainable_parameters: int
    total_parameters: int
    peak_memory_bytes: int
    tensor_bytes: int | None = None
    report_seconds: float = 0.0
    probe_seconds: float = 0.0


Emit = Callable[[dict[str, Any]], None]
