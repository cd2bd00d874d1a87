"""What one run is expected to need, known once its data are encoded.

It makes the run fit into the memory, and is written beside what the run really took. It holds no model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_playground.config import RunConfig, TrainingConfig
from lora_playground.data.preparation import Prepared
from lora_playground.estimates.memory import Conditions, advice, known_memory, micro_batches
from lora_playground.estimates.time import estimate_time
from lora_playground.machine import memory
from lora_playground.runs import Run, RunStore

_SAMPLE = 500
"""Examples that are looked at for the share of learned tokens."""


class RunEstimate:
    """The estimate for a run as it will be trained.

    Args:
        device, precision: 'cpu' or 'cuda', and what 'auto' means there: 'float32' or 'bfloat16'.
        home: whose earlier runs the time is taken from.

    Attributes:
        memory: None where the model does not tell its sizes. time: None where nothing is known.
        remedies: what would lower the memory, for the error message when it is full.
    """

    def __init__(self, config: RunConfig, device: str, precision: str, prepared: Prepared, home: Path) -> None:
        sample = prepared.train[:_SAMPLE]
        self.config = config
        self.conditions = Conditions(
            device,
            precision,
            longest=max(len(example.ids) for example in [*prepared.train, *prepared.rehearsal]),
            learned=sum(int(one.learned.sum()) for one in sample) / sum(len(one.ids) for one in sample),
        )
        self.memory = known_memory(config, self.conditions)
        self.remedies = advice(config, self.memory, self.conditions) if self.memory else []
        self.time = estimate_time(RunStore(home), config, device == "cuda")

    def told(self, attempt: int) -> dict[str, Any]:
        """The fields of a run's result that are compared with what the run took. A resumed run gets no time, since its
        result counts the last attempt only; nor does one whose time comes from the processor's speed alone, which is
        measured anew each time and may differ from what the form said."""
        found: dict[str, Any] = {"device": self.conditions.device}
        if self.memory is not None:
            found["estimated_memory_bytes"] = self.memory.tensors
        if self.time is not None and self.time.source != "processor" and attempt == 1:
            found["forecast_seconds"] = [round(seconds, 1) for seconds in self.time.seconds]
        return found

    def fitting(self, run: Run, report: Callable[[dict[str, Any]], None]) -> TrainingConfig:
        """The training options, on CUDA with as many micro-batches as the free memory asks for. A resumed run keeps the
        number that it began with, since its batches depend on it."""
        training = self.config.training
        micro = training.accumulation
        told = run.progress().plan.get("recipe")
        if told:
            micro = int(told.get("accumulation", micro))
        elif self.conditions.device == "cuda" and self.memory is not None:
            micro = micro_batches(self.config, memory.available_to_torch(), self.conditions)
            if micro != training.accumulation:
                text = f"To fit into the memory, every step takes {micro} micro-batches (training.accumulation)."
                report({"type": "message", "level": "info", "text": text})
        return training.model_copy(update={"accumulation": micro})
