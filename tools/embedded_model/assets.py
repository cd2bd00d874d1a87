"""Checks that the files which ship with the app are whole, by the sizes and hashes in assets/MANIFEST.json. Knows no
formats."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from lora_playground.errors import AssetError
from tools.embedded_model import ASSETS, DATASETS_DIR, MANIFEST, MODEL_DIR

REBUILD = {
    MODEL_DIR.name: "python -m tools.embedded_model.tokenizer && python -m tools.embedded_model.pretrain",
    DATASETS_DIR.name: "python -m tools.embedded_model.datasets",
}  # fmt: skip
RESTORE = "git checkout -- assets"


def asset_files(root: Path = ASSETS) -> list[Path]:
    """The files that the manifest covers, in order: all of the embedded model and of the datasets but the cards in
    Markdown."""
    found = [*(root / "models" / MODEL_DIR.name).rglob("*"), *(root / DATASETS_DIR.name).rglob("*")]
    return sorted(p for p in found if p.is_file() and p.suffix != ".md" and not p.name.startswith("."))


def rebuild_command(path: Path) -> str:
    """The command that makes that file anew."""
    return REBUILD[DATASETS_DIR.name] if DATASETS_DIR.name in path.parts else REBUILD[MODEL_DIR.name]


def fingerprint(path: Path) -> dict[str, int | str]:
    """{"bytes", "sha256"} of a file."""
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def write_manifest(root: Path = ASSETS) -> None:
    """Records all files as they are now."""
    entries = {path.relative_to(root).as_posix(): fingerprint(path) for path in asset_files(root)}
    (root / MANIFEST.name).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def check_assets(root: Path = ASSETS, hashes: bool = True) -> int:
    """Raises AssetError for the first file that is missing or not as recorded; returns how many files are whole.

    With `hashes=False` only presence and size are looked at, which takes a few milliseconds.
    """
    manifest = root / MANIFEST.name
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        recorded = [(root / name, entry["bytes"], entry["sha256"]) for name, entry in sorted(entries.items())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"{manifest} cannot be read ({error}). Restore it with: {RESTORE}") from error
    for path, size, digest in recorded:
        remedy = f"Restore it with: {RESTORE}, or rebuild it with: {rebuild_command(path)}"
        if not path.is_file():
            raise AssetError(f"{path} is missing. {remedy}")
        if path.stat().st_size != size:
            raise AssetError(f"{path} has {path.stat().st_size} bytes, not {size}. {remedy}")
        if hashes and fingerprint(path)["sha256"] != digest:
            raise AssetError(f"{path} is damaged: its content is not what was recorded. {remedy}")
    return len(recorded)


def main() -> None:
    """Checks, or records with --write."""
    parser = argparse.ArgumentParser(description="Check the files that ship with the app.")
    parser.add_argument("--write", action="store_true", help="record the files as they are now")
    if parser.parse_args().write:
        write_manifest()
    print(f"{check_assets()} files are whole")


if __name__ == "__main__":
    main()
