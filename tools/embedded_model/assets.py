"""Checks that the shipped model and datasets are whole, by the sizes and hashes in assets/MANIFEST.json.

python -m tools.embedded_model.assets            # compare the files with the manifest
python -m tools.embedded_model.assets --write    # record the files as they are
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from lora_playground.data import catalogue as datasets
from lora_playground.errors import AssetError
from lora_playground.models import catalogue as models

ASSETS = models.ASSETS
MANIFEST = "MANIFEST.json"
RESTORE = "git checkout -- assets"


def asset_files(root: Path = ASSETS) -> list[Path]:
    """The files that the manifest covers, sorted: the embedded model and the datasets, without cards in Markdown."""
    found = [*(root / "models" / "embedded").rglob("*"), *(root / "datasets").rglob("*")]
    return sorted(p for p in found if p.is_file() and p.suffix != ".md" and not p.name.startswith("."))


def fingerprint(path: Path) -> dict[str, int | str]:
    """{"bytes", "sha256"} of a file."""
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def write_manifest(root: Path = ASSETS) -> None:
    """Writes the manifest of the files as they are."""
    entries = {path.relative_to(root).as_posix(): fingerprint(path) for path in asset_files(root)}
    (root / MANIFEST).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def check_assets(root: Path = ASSETS, hashes: bool = True) -> int:
    """Compares the files with the manifest and returns how many there are.

    With `hashes=False` it compares sizes only, which takes a few milliseconds.

    Raises:
        AssetError: a file is missing or not as recorded, or the manifest cannot be read.
    """
    manifest = root / MANIFEST
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        recorded = [(name, entry["bytes"], entry["sha256"]) for name, entry in sorted(entries.items())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"{manifest} cannot be read ({error}). Restore it with: {RESTORE}") from error
    for name, size, digest in recorded:
        path, rebuild = root / name, datasets.REBUILD if name.startswith("datasets/") else models.REBUILD
        remedy = f"Restore it with: {RESTORE}, or rebuild it with: {rebuild}"
        if not path.is_file():
            raise AssetError(f"{path} is missing. {remedy}")
        if path.stat().st_size != size:
            raise AssetError(f"{path} has {path.stat().st_size} bytes, not {size}. {remedy}")
        if hashes and fingerprint(path)["sha256"] != digest:
            raise AssetError(f"{path} is damaged: its content is not what was recorded. {remedy}")
    return len(recorded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the files as they are")
    if parser.parse_args().write:
        write_manifest()
    print(f"{check_assets()} files are whole")


if __name__ == "__main__":
    main()
