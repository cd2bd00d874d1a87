"""Sweeps: many runs that differ in rank, variant, learning rate or seed, as one thing with one cost and one answer.

`grid` says which runs, `store` keeps them in HOME/sweeps, `race` says which of them stop early, `keeper` feeds them to
the queue, `standing` reads how far they are, `deletion` ends them. No Gradio, no torch.
"""

from lora_playground.sweeps.deletion import delete
from lora_playground.sweeps.grid import MOST, Grid
from lora_playground.sweeps.keeper import Keeper
from lora_playground.sweeps.standing import Member, Standing, read_standing
from lora_playground.sweeps.store import Entry, Sweep, SweepStore

__all__ = ["MOST", "Entry", "Grid", "Keeper", "Member", "Standing", "Sweep", "SweepStore", "delete", "read_standing"]
