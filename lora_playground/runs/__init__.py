"""Runs as folders of plain files: `folder` holds one run and the store of all, `files` writes whole files or none, and
`history` reads what a run's events say."""

from lora_playground.runs.folder import HOME_VARIABLE, Run, RunStore, default_home, home_at

__all__ = ["HOME_VARIABLE", "Run", "RunStore", "default_home", "home_at"]
