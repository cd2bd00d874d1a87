"""Where the files that ship with the app are: the embedded model, the datasets, the theme. It reads none of them."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent
_INSTALLED = _HERE / "_assets"

ASSETS = _INSTALLED if _INSTALLED.is_dir() else _HERE.parent / "assets"
"""Beside the package in a checkout; inside it, as `_assets`, if it was installed from a wheel."""
