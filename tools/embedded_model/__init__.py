"""How the embedded base model and its datasets are made, and where they lie. Importing it imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MODEL_DIR = ASSETS / "models" / "embedded"
DATASETS_DIR = ASSETS / "datasets"
BASE_SKILLS_DIR = DATASETS_DIR / "_base-skills"
MANIFEST = ASSETS / "MANIFEST.json"
