"""Writes a run in one of the formats, or all of them in a zip. It knows the formats, not their text."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from lora_playground.errors import ConfigError
from lora_playground.reproduce.command import command_line
from lora_playground.reproduce.notebook import notebook
from lora_playground.runs import Run

FORMATS = ("config", "cli", "script", "notebook", "bundle")
BATCHES = "batches.safetensors"


def check(format: str) -> None:
    """Raises ConfigError if there is no such format."""
    if format not in FORMATS:
        raise ConfigError("format", format, f"choose one of {', '.join(FORMATS)}")


def reproduce(run: Run, format: str, out: Path | None = None) -> dict[str, Any]:
    """Exports a run so that it can be repeated.

    Args:
        format: 'config': the RunConfig as JSON. 'cli': one command line. 'script', 'notebook': with the batches beside
            them in `batches.safetensors` if stock libraries suffice. 'bundle': all four as a zip.
        out: the file to write; None, for config and cli only, returns the text.

    Returns:
        {'format', 'standalone': whether script and notebook work without this package, 'why': the reason if not,
        'files': paths that were written, 'text': or None}.

    Raises:
        ConfigError, RunError, DataError: the format is unknown, or the run cannot be exported.
    """
    check(format)
    config = run.config()
    settings = config.model_dump_json(indent=1) + "\n"
    if format in ("config", "cli"):
        text = settings if format == "config" else command_line(config) + "\n"
        if out is not None:
            out.write_text(text, encoding="utf-8")
        return {"format": format, "standalone": False, "why": "", "files": _names(out), "text": text}
    if out is None:
        raise ConfigError("out", None, f"name a file for the {format}, such as run.{_ENDINGS[format]}")
    from lora_playground.reproduce.script import made

    text, side, why = made(run)
    if format == "bundle":
        files = {"config.json": settings, "command.txt": command_line(config) + "\n", "reproduce.py": text}
        files["reproduce.ipynb"] = notebook(text)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
            if side is not None:
                archive.writestr(BATCHES, side)
        return {"format": format, "standalone": side is not None, "why": why, "files": _names(out), "text": None}
    out.write_text(text if format == "script" else notebook(text), encoding="utf-8")
    written = [out]
    if side is not None:
        (out.parent / BATCHES).write_bytes(side)
        written.append(out.parent / BATCHES)
    return {"format": format, "standalone": side is not None, "why": why, "files": _names(*written), "text": None}


_ENDINGS = {"script": "py", "notebook": "ipynb", "bundle": "zip"}


def _names(*paths: Path | None) -> list[str]:
    return [str(path) for path in paths if path is not None]
