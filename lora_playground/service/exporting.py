"""A run's adapter as one file, a zip, in the formats of `exchange.exporting`, and a run as something to do again; what
needs torch is made by a command."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from lora_playground.errors import ConfigError
from lora_playground.exchange.exporting import check, export
from lora_playground.reproduce import check as check_again
from lora_playground.reproduce import reproduce
from lora_playground.runs import RunStore
from lora_playground.service.commands import run_command

LIMIT_SECONDS = 1800


async def exported(store: RunStore, identity: str, format: str, place: Path, rank: int | None = None) -> Path:
    """The run in that format as a zip in `place`; one that was made before is given again.

    Raises:
        PlaygroundError, OSError: each in a sentence for the person.
    """
    check(format, rank)
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


async def reproduced(store: RunStore, identity: str, format: str, place: Path) -> dict[str, Any]:
    """A run as text to do it again: `format`, `text`, and for script and notebook `standalone`, `why` (not).

    Raises:
        PlaygroundError: each in a sentence for the person.
    """
    check_again(format)
    run = store.get(identity)
    if format == "bundle":
        raise ConfigError("format", format, "it is a file; ask reproduce_bundle for it")
    if format not in ("script", "notebook"):
        told = await asyncio.to_thread(reproduce, run, format)
    else:
        folder = Path(tempfile.mkdtemp(dir=place))
        try:
            told = await _made_again(store, run.id, format, folder / "again")
            told["text"] = (folder / "again").read_text(encoding="utf-8")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return {"run": run.id, **{key: told[key] for key in ("format", "text", "standalone", "why")}}


async def reproduced_bundle(store: RunStore, identity: str, place: Path) -> Path:
    """A run as a zip of all its formats in `place`; one that was made before is given again. Raises PlaygroundError."""
    run = store.get(identity)
    target = place / f"{run.id}-reproduce.zip"
    if not target.is_file():
        staged = place / f"{target.stem}.{secrets.token_hex(4)}.tmp"
        await _made_again(store, run.id, "bundle", staged)
        os.replace(staged, target)
    return target


async def _made_again(store: RunStore, run: str, format: str, out: Path) -> dict[str, Any]:
    command = ["reproduce", run, "--format", format, "--out", str(out), "--json"]
    printed = await run_command(store.home, command, LIMIT_SECONDS)
    return dict(json.loads(printed.splitlines()[-1]))


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
