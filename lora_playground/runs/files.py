"""Writes files atomically, and says in words when a disk is full. It knows no run and works in any folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_playground.errors import RunError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = ("no space left on device", "disk quota exceeded", "file too large", "database or disk is full")


class DiskFull(RunError):
    """A file could not be written because the disk, a quota or a size limit is full."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or its cause, says that the disk is full; libraries in Rust or C++ say so only in their
    text."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DiskFull) or (isinstance(seen, OSError) and seen.errno in _FULL):
            return True
        if any(words in str(seen).lower() for words in _FULL_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def free_bytes(folder: Path) -> int:
    """Free bytes for this user on the disk that holds `folder` (or its nearest parent that exists)."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns errors within the block into DiskFull if the disk is full, and into RunError if the path cannot be written;
    both name `path` and what to do. Other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            with contextlib.suppress(OSError):
                free = free_bytes(path)
                raise DiskFull(
                    f"The disk is full ({free / 1e6:.0f} MB free): {path.name} could not be written. "
                    f"Make room on the disk that holds {path.parent} and start again."
                ) from error
            raise DiskFull(f"The disk is full: {path} could not be written. Make room and start again.") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT):
            raise RunError(
                f"{path} cannot be written ({error.strerror}). Choose another folder with --home DIR "
                "or the environment variable LORA_PLAYGROUND_HOME."
            ) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically: temporary file, fsync, rename, fsync of the folder.

    Raises:
        DiskFull, RunError: it cannot be written. An earlier file of that name is intact, and no temporary file is left.
    """
    data = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"
    staged = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with writing(path):
        try:
            handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                _write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(staged, path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        sync(path.parent)


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def sync(path: Path) -> None:
    """Makes a file, or the renames and new names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(staged: Path, final: Path) -> None:
    """Syncs a staged file or folder and moves it to its final place by one rename, replacing what was there."""
    with writing(final):
        files = [path for path in staged.rglob("*") if path.is_file()] if staged.is_dir() else [staged]
        for path in files:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        if final.is_dir():
            old = final.with_name(f"{final.name}.{secrets.token_hex(4)}.tmp")
            os.replace(final, old)
            try:
                os.replace(staged, final)
            except BaseException:
                os.rename(old, final)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(staged, final)
        sync(final.parent)


def read_json(path: Path) -> Any | None:
    """The value in a JSON file; None if the file is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
