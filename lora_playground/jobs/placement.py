"""Decides how many jobs run at once, which device a job gets, and whether it fits beside the running ones.

It knows what jobs need and what the machine has; it starts nothing and knows no owner.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lora_playground.config import RunConfig
from lora_playground.estimates.memory import Conditions, known_memory
from lora_playground.machine import memory
from lora_playground.machine.device import Gpu, cores, gpus

LARGE = 50_000_000
"""Parameters: a base model with at least as many trains on the CPU alone, since its matrix products keep all cores
busy. Two runs on smaller models finish sooner side by side, each on one core, than one after the other on both."""


@dataclass(frozen=True)
class Place:
    """Where a job runs and what it needs there.

    Attributes:
        gpu: the GPU as CUDA_VISIBLE_DEVICES names it; None if the machine has at most one.
        bytes: device memory it needs, 0 if unknown. alone: whether no other job may run on the CPU.
    """

    gpu: str | None = None
    bytes: int = 0
    alone: bool = False


class Placement:
    """Finds places on this machine.

    Args:
        slots: the most jobs at once. None: on a CPU as many as it has cores, but a large model alone; on a GPU as many
            as fit into its memory.
    """

    def __init__(self, slots: int | None = None) -> None:
        self._free_choice = slots is None
        self.slots = max(1, slots) if slots is not None else max(cores(), len(gpus()))

    def find(self, config: RunConfig, taken: Collection[Place]) -> Place | None:
        """A place for a run beside the places that are taken; None while there is none."""
        if len(taken) >= self.slots:
            return None
        found = gpus()
        estimate = known_memory(config, Conditions("cuda", "bfloat16") if found else Conditions())
        need = estimate.most if estimate else 0
        if found:
            return self._on_a_gpu(found, need, taken)
        alone = self._free_choice and (estimate is None or estimate.parameters >= LARGE)
        full = taken and need > memory.free()
        if full or (taken and alone) or any(place.alone for place in taken):
            return None
        return Place(None, need, alone)

    def _on_a_gpu(self, found: list[Gpu], need: int, taken: Collection[Place]) -> Place | None:
        """A place on the GPU with the fewest jobs, among those with enough memory that is neither used nor going to be
        used by jobs that have just started. A job of unknown size gets a GPU without jobs."""
        best: tuple[int, int, str] | None = None
        for gpu in found:
            here = [place for place in taken if place.gpu in (gpu.name, None)]
            free = gpu.total - max(gpu.used, sum(place.bytes for place in here))
            if not here or (need and need <= free and all(place.bytes for place in here)):
                best = min(best or (len(here), -free, gpu.name), (len(here), -free, gpu.name))
        return None if best is None else Place(best[2] if len(found) > 1 else None, need)
