"""Runs as folders of plain files: `folder` has the class of one run and the store of all, `files` writes files
atomically, `history` reads a run's events."""

from lora_playground.runs.folder import HOME_VARIABLE, Run, RunStore, default_home, home_at

__all__ = ["HOME_VARIABLE", "Run", "RunStore", "default_home", "home_at"]
