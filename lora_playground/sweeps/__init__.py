"""Sweeps: up to 32 runs that differ in rank, variant, learning rate or seed, started and judged as one.

`grid` lists the runs of a sweep, `store` keeps the sweep in HOME/sweeps, `cost` estimates what it will take,
`scheduler` queues its runs, `race` decides which of them stop early, `status` reads how far they have come, `findings`
what they show, `deletion` removes a sweep with its runs. No Gradio, no torch.
"""

from lora_playground.sweeps.deletion import delete
from lora_playground.sweeps.grid import MAX_RUNS, Grid
from lora_playground.sweeps.scheduler import SweepScheduler
from lora_playground.sweeps.status import Member, SweepStatus, read_status
from lora_playground.sweeps.store import Entry, Sweep, SweepStore

__all__ = [
    "MAX_RUNS",
    "Entry",
    "Grid",
    "Member",
    "Sweep",
    "SweepScheduler",
    "SweepStatus",
    "SweepStore",
    "delete",
    "read_status",
]
