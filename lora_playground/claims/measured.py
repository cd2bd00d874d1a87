"""Reads what was measured for the claims on the embedded base: `assets/claims/measured.json`, which
`benchmarks/claims.py` writes."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lora_playground.claims.schema import FOLDER, Claim
from lora_playground.runs.files import read_json

FILE = FOLDER / "measured.json"


class Measurement(BaseModel):
    """One claim's measurement.

    Attributes:
        base: digest of the base model's weights.
        config: `digest` of the claim when it was measured. If the claim has another one by now, this is out of date.
        seeds: those that were run. rows: test rows scored for each run. values: {side: one number for each seed}.
        figures: {name: number}, for claims that a script measures without runs.
    """

    model_config = ConfigDict(extra="forbid")

    base: str
    config: str
    seeds: list[int] = []
    rows: int = 0
    values: dict[str, list[float]] = {}
    figures: dict[str, float] = {}


def digest(claim: Claim) -> str:
    """A digest of all parts of a claim on which its numbers depend: sides, measure, number of seeds, names of figures.
    Changes of its texts alone do not change the digest."""
    sides = {key: side.config for key, side in claim.sides.items()}
    figures = sorted(getattr(claim.test, "bounds", {}))
    plain = json.dumps([sides, claim.measure, claim.seeds, figures], sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def measurement(name: str) -> Measurement | None:
    """The stored measurement of a claim; None if there is none."""
    stamp = FILE.stat().st_mtime_ns if FILE.is_file() else 0
    found = _read(FILE, stamp).get(name)
    return Measurement.model_validate(found) if found else None


@lru_cache(maxsize=2)
def _read(path: Path, stamp: int) -> dict[str, Any]:
    return read_json(path) or {}
