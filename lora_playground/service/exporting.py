"""Makes downloads of a run: its adapter as a zip in one of the formats of `exchange.exporting`, and the run as a
script, notebook or command (`reproduce`). What needs torch is made by a command in a process of its own."""

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
    """Makes a zip of the adapter in `place`, unless it is there already; returns its path.

    Raises:
        PlaygroundError, OSError: with a message for the person who asks.
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
    """A run as text that trains it again.

    Returns:
        {run: its id, format, text, standalone: whether a script or notebook works without this package, why: the reason
        if it does not}.

    Raises:
        PlaygroundError: with a message for the person who asks.
    """
    check_again(format)
    run = store.get(identity)
    if format == "bundle":
        raise ConfigError("format", format, "it is a file; ask reproduce_bundle for it")
    if format not in ("script", "notebook"):
        made = await asyncio.to_thread(reproduce, run, format)
    else:
        folder = Path(tempfile.mkdtemp(dir=place))
        try:
            made = await _made_again(store, run.id, format, folder / "again")
            made["text"] = (folder / "again").read_text(encoding="utf-8")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return {"run": run.id, **{key: made[key] for key in ("format", "text", "standalone", "why")}}


async def reproduced_bundle(store: RunStore, identity: str, place: Path) -> Path:
    """Makes a zip with the run in all formats in `place`, unless it is there already; returns its path. Raises
    PlaygroundError."""
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
    """Packs a folder as `place`/name.zip with `note` as the zip's comment; returns its path. Raises OSError."""
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
    """The note of a zip made by `zipped`, such as how exactly a plain LoRA holds a dense update."""
    with zipfile.ZipFile(packed) as archive:
        return archive.comment.decode(errors="replace")
