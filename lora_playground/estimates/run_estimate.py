"""What a run should need, known once its base and data are there: shown beside what it took, and used to make it fit.

It knows the estimate and a run's events; it trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.config import RunConfig, TrainingConfig
from lora_playground.data.preparation import Prepared
from lora_playground.estimates.memory import advice, known, micro_batches
from lora_playground.estimates.time import forecast
from lora_playground.runs import Run, RunStore

if TYPE_CHECKING:
    from lora_playground.models.loading import Base

_SAMPLE = 500


class Foresight:
    """The estimate for a run as it will be trained.

    Attributes:
        expected: the cost, None where the model does not tell its sizes. time: the forecast, None where there is none.
        remedies: what would lower it, for the error where memory is full.
    """

    def __init__(self, config: RunConfig, base: Base, prepared: Prepared, home: Path) -> None:
        self.config, self.base = config, base
        sample = prepared.train[:_SAMPLE]
        self.situation: dict[str, Any] = {
            "device": base.device.type,
            "precision": str(base.dtype).removeprefix("torch."),
            "longest": max(len(example.ids) for example in [*prepared.train, *prepared.rehearsal]),
            "learned": sum(int(one.learned.sum()) for one in sample) / sum(len(one.ids) for one in sample),
        }
        self.expected = known(config, **self.situation)
        self.remedies = advice(config, self.expected, **self.situation) if self.expected else []
        self.time = forecast(RunStore(home), config, base.device.type == "cuda")

    def told(self, attempt: int) -> dict[str, Any]:
        """What a result says of this, to be laid beside what the run took; of a resumed run only the memory, since its
        result counts the time of the last attempt, and no time that only the processor's speed foretells: timed here,
        while the page draws, it may be another than the form said."""
        found: dict[str, Any] = {"device": self.situation["device"]}
        if self.expected is not None:
            found["estimated_memory_bytes"] = self.expected.tensors
        if self.time is not None and self.time.source != "processor" and attempt == 1:
            found["forecast_seconds"] = [round(seconds, 1) for seconds in self.time.seconds]
        return found

    def fitting(self, run: Run, report: Callable[[dict[str, Any]], None]) -> TrainingConfig:
        """The training options; on CUDA with as many micro-batches as the free memory asks for. A resumed run keeps the
        number that it began with, since its batches depend on it."""
        training = self.config.training
        told = [event["recipe"] for event in run.events()[0] if event["type"] == "plan" and "recipe" in event]
        if told:
            micro = int(told[0].get("accumulation", training.accumulation))
        elif self.base.device.type == "cuda" and self.expected is not None:
            micro = micro_batches(self.config, self._room(), **self.situation)
            if micro != training.accumulation:
                text = f"To fit into the memory, every step takes {micro} micro-batches (training.accumulation)."
                report({"type": "message", "level": "info", "text": text})
        else:
            micro = training.accumulation
        return training.model_copy(update={"accumulation": micro})

    def _room(self) -> int:
        """Bytes that the run may use; what its weights took already counts as free."""
        import torch

        free, _ = torch.cuda.mem_get_info(self.base.device)
        return int(free + torch.cuda.memory_reserved(self.base.device))
