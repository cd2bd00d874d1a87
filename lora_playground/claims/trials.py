"""A visitor's own trial of a claim: every side is trained once, with one seed, to be shown beside the stored values.

`HOME/claims` has one file for each visitor, which says which runs are theirs. A run whose config this server has
trained before is taken over instead of trained, so the trials of a whole class take as long as one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lora_playground.claims.schema import Claim
from lora_playground.claims.verdicts import of_one_seed
from lora_playground.estimates.time import estimate_times
from lora_playground.evaluation import interval
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.runs.files import read_json, write_json

FOLDER = "claims"
SEED = 0


class Trials:
    """The trials of all visitors. Thread-safe."""

    def __init__(self, home: Path, supervisor: Supervisor) -> None:
        self._folder, self._supervisor = home / FOLDER, supervisor
        self._lock = threading.Lock()

    def begin(self, visitor: str, claim: Claim, model: str | None = None) -> dict[str, Any]:
        """Queues every side that is not queued, running or done; returns `states`.

        Args:
            model: source of the base model, None for the embedded one.

        Raises:
            ConfigError, JobError: the queue refuses a side; sides before it stay queued.
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
        """How far the trial has come.

        Returns:
            {'sides': {key: side}, 'begun': whether any side was queued, 'said': see `of_one_seed`, ''
            until all sides have a value}; a side has `state` ('new' or the job's), `run` (its id), `part` (done part,
            0 to 1), `problem`, and once it is done what `value_of` returns.
        """
        runs = self._runs(visitor, claim, model)
        told = {key: self._side(claim, runs.get(key, "")) for key in claim.sides}
        values = {key: side["value"] for key, side in told.items() if "value" in side}
        said = of_one_seed(claim, values) if values.keys() == claim.sides.keys() else ""
        return {"sides": told, "begun": bool(runs), "said": said}

    def seconds(self, claims: Sequence[Claim], model: str, gpu: bool) -> dict[str, tuple[float, float]]:
        """{name: (least, most) seconds that all sides of a claim are expected to take, one after another, on another
        base model than the embedded one}; claims of which nothing comparable is known are left out."""
        configs = {claim.name: [side.run_config(SEED, model) for side in claim.sides.values()] for claim in claims}
        found = iter(estimate_times(self._supervisor.runs, list(chain.from_iterable(configs.values())), gpu))
        times = {name: [one for one in islice(found, len(sides)) if one] for name, sides in configs.items()}
        return {
            name: (sum(one.seconds[0] for one in known), sum(one.seconds[1] for one in known))
            for name, known in times.items()
            if known and len(known) == len(configs[name])
        }

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
    """What a finished run measured for a claim.

    Returns:
        {'value', 'interval', 'rows'}: the score or share of skills kept (0 to 1) with Wilson's 95% interval over its
        test rows; {'value', 'interval': None} for a loss; {} if the result has no such value.
    """
    if claim.measure == "validation_loss":
        value = (result.get("validation_loss") or {}).get("adapted")
        return {} if value is None else {"value": value, "interval": None}
    part = result.get("score" if claim.measure == "score" else "forgetting") or {}
    if part.get("adapted") is None:
        return {}
    return {"value": part["adapted"], "interval": list(interval(part["adapted"], part["n"])), "rows": part["n"]}


def _key(claim: Claim, model: str | None) -> str:
    return f"{claim.name} {model or ''}".strip()
