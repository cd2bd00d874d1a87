"""Which base models visitors may use on a shared server: the listed ones, the hub's up to a size, and the folders given
when it was started. Environment variables carry these limits to every process of the app. It knows paths and sizes; no
torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lora_playground.errors import ModelError

SHARED_VARIABLE = "LORA_PLAYGROUND_SHARED"
"""Set to 1 if the server listens beyond this machine."""
MODELS_VARIABLE = "LORA_PLAYGROUND_MODELS"
"""Folders that hold base models, separated as in PATH."""
DOWNLOAD_VARIABLE = "LORA_PLAYGROUND_LARGEST_DOWNLOAD"
"""The most bytes of a base model or adapter from the hub on a shared server."""
LARGEST = 8_000_000_000


def share(models: Sequence[str] = (), shared: bool = False, largest: float | None = None) -> None:
    """Sets the limits for this process and its children.

    Args:
        models: folders with base models, each a model or a folder of models.
        shared: whether strangers may use the server. largest: limit of a download in GB.

    Raises:
        ModelError: one of `models` is not a folder.
    """
    folders = [Path(name).expanduser() for name in models]
    for folder in folders:
        if not folder.is_dir():
            raise ModelError(f"--models {folder} is no folder; name one that holds base models, or is one.")
    if folders:
        os.environ[MODELS_VARIABLE] = os.pathsep.join(str(folder.resolve()) for folder in folders)
    if shared:
        os.environ[SHARED_VARIABLE] = "1"
    if largest is not None:
        os.environ[DOWNLOAD_VARIABLE] = str(int(largest * 1e9))


def is_shared() -> bool:
    """Whether strangers may use this server."""
    return os.environ.get(SHARED_VARIABLE) == "1"


def named() -> list[Path]:
    """The base models in the folders given to `share`: model folders and GGUF files, by name."""
    found: list[Path] = []
    for name in filter(None, os.environ.get(MODELS_VARIABLE, "").split(os.pathsep)):
        folder = Path(name)
        try:
            inside = sorted(folder.iterdir())
        except OSError:
            continue
        every = [folder] if (folder / "config.json").is_file() else inside
        found += [path for path in every if path.suffix == ".gguf" or (path / "config.json").is_file()]
    return found


def allowed(path: Path) -> bool:
    """Whether a folder or file of this machine may be used: any where only its owner asks, else those named."""
    if not is_shared():
        return True
    try:
        real = path.resolve()
        return any(real == one.resolve() for one in named())
    except (OSError, ValueError):
        return False


def check_size(name: str, size: int) -> None:
    """Raises ModelError if a download from the hub is larger than a shared server takes."""
    most = int(os.environ.get(DOWNLOAD_VARIABLE) or LARGEST)
    if is_shared() and size > most:
        raise ModelError(
            f"{name} has {size / 1e9:.1f} GB, and this server fetches up to {most / 1e9:g} GB; choose a smaller one."
        )
