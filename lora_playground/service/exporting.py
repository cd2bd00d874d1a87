"""A run's adapter as one file, a zip, in the formats of `exchange.exporting`; what needs torch is made by a command."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import zipfile
from pathlib import Path

from lora_playground.errors import ConfigError
from lora_playground.exchange.exporting import FORMATS, export
from lora_playground.runs import RunStore
from lora_playground.service.commands import run_command

LIMIT_SECONDS = 1800


async def exported(store: RunStore, identity: str, format: str, place: Path, rank: int | None = None) -> Path:
    """The run in that format as a zip in `place`; one that was made before is given again.

    Raises:
        PlaygroundError, OSError: each in a sentence for the person.
    """
    if format not in FORMATS:
        raise ConfigError("format", format, f"choose one of {', '.join(FORMATS)}")
    if rank is not None and (format != "lora" or isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ConfigError("rank", rank, "it is a whole number of at least 1, and only for the format lora")
    run = store.get(identity)
    target = place / f"{run.id}-{format}{f'-r{rank}' if rank else ''}.zip"
    if target.is_file():
        return target
    staged = place / f"{target.stem}-{secrets.token_hex(4)}"
    try:
        if format == "peft":  # copies files, so it needs no process of its own
            await asyncio.to_thread(export, run.folder, format, staged)
            return await asyncio.to_thread(zipped, staged, target.stem, place)
        command = ["export", run.id, "--format", format, "--out", str(staged)]
        command += ["--rank", str(rank)] if rank else []
        printed = await run_command(store.home, [*command, "--json"], LIMIT_SECONDS)
        report = json.loads(printed.splitlines()[-1])
        note = report["note"] or ("It is exact." if report.get("exact") else "")
        return await asyncio.to_thread(zipped, staged, target.stem, place, note)
    finally:
        await asyncio.to_thread(shutil.rmtree, staged, True)


def zipped(folder: Path, name: str, place: Path, note: str = "") -> Path:
    """Packs a folder as `place`/name.zip, with a note as its comment, and returns the file; raises OSError."""
    if not folder.is_dir():
        raise FileNotFoundError("this run has saved no adapter")
    target = place / f"{name}.zip"
    staged = place / f"{name}.{secrets.token_hex(4)}.tmp"
    with zipfile.ZipFile(staged, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{name}/{path.relative_to(folder)}")
        archive.comment = note.encode()
    os.replace(staged, target)
    return target


def note_of(packed: Path) -> str:
    """The note in a zip made by `zipped`, such as how close a LoRA is to a dense update."""
    with zipfile.ZipFile(packed) as archive:
        return archive.comment.decode(errors="replace")
