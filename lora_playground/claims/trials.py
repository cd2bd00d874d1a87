"""A visitor's own trial of a claim: both sides go through the queue with one seed, and are laid over what is stored.

It keeps which runs belong to whom in `HOME/claims`, one file a visitor. Runs with the same config that this server has
made are played back, so a class waits for one trial.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

from lora_playground.claims.schema import Claim
from lora_playground.evaluation import interval
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.runs.files import read_json, write_json

FOLDER = "claims"
SEED = 0


class Trials:
    """The trials of one home; safe to call from many threads."""

    def __init__(self, home: Path, supervisor: Supervisor) -> None:
        self._folder, self._supervisor = home / FOLDER, supervisor
        self._lock = threading.Lock()

    def begin(self, visitor: str, claim: Claim, model: str | None = None) -> dict[str, Any]:
        """Queues every side that is not under way or done, on the embedded base or another; returns `states`.

        Raises ConfigError, JobError in the queue's words; sides queued before stay.
        """
        for key, side in claim.sides.items():
            job = self._supervisor.find(self._runs(visitor, claim, model).get(key, ""))
            if job is not None and (not job.ended or job.state == "done"):
                continue
            made = self._supervisor.submit(side.run_config(SEED, model), visitor)
            with self._lock:
                kept = read_json(self._path(visitor)) or {}
                kept.setdefault(_key(claim, model), {})[key] = made.id
                self._folder.mkdir(parents=True, exist_ok=True)
                write_json(self._path(visitor), kept)
        return self.states(visitor, claim, model)

    def states(self, visitor: str, claim: Claim, model: str | None = None) -> dict[str, Any]:
        """{sides: {key: {state, run, part, value, interval}}, begun}; value where the run is done and was scored."""
        runs = self._runs(visitor, claim, model)
        told = {key: self._side(claim, runs.get(key, "")) for key in claim.sides}
        return {"sides": told, "begun": bool(runs)}

    def _side(self, claim: Claim, identity: str) -> dict[str, Any]:
        job = self._supervisor.find(identity)
        if job is None:
            return {"state": "new", "run": ""}
        part = job.step / job.steps if job.steps else 0.0
        told = {"state": job.state, "run": job.id, "part": part, "problem": job.error_message or ""}
        if job.state == "done":
            result = self._supervisor.runs.get(job.id).result() or {}
            told |= value_of(claim, result)
        return told

    def _runs(self, visitor: str, claim: Claim, model: str | None) -> dict[str, str]:
        return (read_json(self._path(visitor)) or {}).get(_key(claim, model), {})

    def _path(self, visitor: str) -> Path:
        return self._folder / f"{hashlib.sha256(visitor.encode()).hexdigest()[:32]}.json"


def value_of(claim: Claim, result: dict[str, Any]) -> dict[str, Any]:
    """{value, interval} of a finished run by what the claim measures; the interval is Wilson's over its rows, None for
    a loss. Empty where the result does not have it."""
    if claim.measure == "validation_loss":
        value = (result.get("validation_loss") or {}).get("adapted")
        return {} if value is None else {"value": value, "interval": None}
    part = result.get("score" if claim.measure == "score" else "forgetting") or {}
    if part.get("adapted") is None:
        return {}
    return {"value": part["adapted"], "interval": list(interval(part["adapted"], part["n"])), "rows": part["n"]}


def _key(claim: Claim, model: str | None) -> str:
    return f"{claim.name} {model or ''}".strip()
