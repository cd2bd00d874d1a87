"""The estimate for one run, made once its data are encoded.

By it a run on CUDA chooses its micro-batches, and its result has the estimate beside what the run took. It holds no
model.
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
"""Number of examples from which the share of learned tokens is estimated."""


class RunEstimate:
    """The estimate for one run.

    Args:
        device: 'cpu' or 'cuda'. precision: of 'auto' on this device, 'float32' or 'bfloat16'.
        home: has the earlier runs by which time is estimated.

    Attributes:
        memory: None if the model's sizes are unknown. time: None if nothing comparable has run.
        remedies: what would lower the memory, for the error message if there is too little.
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

    def result_fields(self, attempt: int) -> dict[str, Any]:
        """The fields of a run's result with the estimates. There is no time for a resumed run, since the times in a
        result are those of its last attempt; nor if the estimate rests on the processor's speed alone, since that is
        measured each time and can differ from the estimate in the form."""
        found: dict[str, Any] = {"device": self.conditions.device}
        if self.memory is not None:
            found["estimated_memory_bytes"] = self.memory.tensors
        if self.time is not None and self.time.source != "processor" and attempt == 1:
            found["forecast_seconds"] = [round(seconds, 1) for seconds in self.time.seconds]
        return found

    def fitting(self, run: Run, report: Callable[[dict[str, Any]], None]) -> TrainingConfig:
        """The training options, on CUDA with as many micro-batches as the free memory requires. A resumed run keeps its
        number, since its batches depend on it."""
        training = self.config.training
        micro = training.accumulation
        recipe = run.progress().plan.get("recipe")
        if recipe:
            micro = int(recipe.get("accumulation", micro))
        elif self.conditions.device == "cuda" and self.memory is not None:
            micro = micro_batches(self.config, memory.available_to_torch(), self.conditions)
            if micro != training.accumulation:
                text = f"To fit into the memory, every step takes {micro} micro-batches (training.accumulation)."
                report({"type": "message", "level": "info", "text": text})
        return training.model_copy(update={"accumulation": micro})
