"""What was measured for the claims on the shipped base: `assets/claims/measured.json`, made by benchmarks/claims.py."""

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
        base: digest of the base model. config: digest of the sides as they were; another one makes it void.
        seeds: which were run. rows: test rows a seed. values: {side: numbers, one a seed}. figures: {name: number}.
    """

    model_config = ConfigDict(extra="forbid")

    base: str
    config: str
    seeds: list[int] = []
    rows: int = 0
    values: dict[str, list[float]] = {}
    figures: dict[str, float] = {}


def digest(claim: Claim) -> str:
    """Of what decides the numbers: sides, measure, count of seeds, names of figures; texts do not count."""
    sides = {key: side.config for key, side in claim.sides.items()}
    figures = sorted(getattr(claim.test, "bounds", {}))
    plain = json.dumps([sides, claim.measure, claim.seeds, figures], sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def measurement(name: str) -> Measurement | None:
    """What is stored for a claim; None where nothing is."""
    stamp = FILE.stat().st_mtime_ns if FILE.is_file() else 0
    found = _read(FILE, stamp).get(name)
    return Measurement.model_validate(found) if found else None


@lru_cache(maxsize=2)
def _read(path: Path, stamp: int) -> dict[str, Any]:
    return read_json(path) or {}
