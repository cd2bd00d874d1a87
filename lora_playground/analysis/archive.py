"""Unpacks an adapter from a stranger's zip: two files by name and nothing else. It knows no tensors."""

from __future__ import annotations

import errno
import lzma
import zipfile
import zlib
from pathlib import Path

from lora_playground.analysis.adapter_config import CONFIG
from lora_playground.analysis.adapter_file import MAX_CONFIG, TENSORS
from lora_playground.analysis.adapter_methods import brief
from lora_playground.analysis.tensors import PICKLE_NAMES
from lora_playground.errors import AdapterError

MAX_BYTES = 8 * 2**30
MAX_RATIO = 200
MAX_MEMBERS = 200
# What Python's zip reader and its decompressors raise for a damaged file.
_BROKEN = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, RuntimeError),
    *(zlib.error, lzma.LZMAError, ValueError, OSError),
)


def unpack(archive: Path, folder: Path, limit: int = MAX_BYTES) -> None:
    """Copies an adapter's config and tensors from a zip into `folder`.

    The zip is not extracted: two members are read by their exact names, at its root or in its only folder.

    Args:
        archive: the zip.
        folder: an existing folder for the two files.
        limit: the most bytes of tensors to unpack.

    Raises:
        AdapterError: it is damaged, lacks a file, or has a member that points outside, is a link, repeated, encrypted,
            too large or a pickle.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            chosen = _choose(members, limit)
            for name, member in chosen.items():
                _copy(zipped, member, folder / name, MAX_CONFIG if name == CONFIG else limit)
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise AdapterError(f"{archive.name} is no zip that can be read ({brief(str(error))}).") from error


def _choose(members: list[zipfile.ZipInfo], limit: int) -> dict[str, zipfile.ZipInfo]:
    if len(members) > MAX_MEMBERS:
        raise AdapterError(
            f"the zip holds {len(members)} files; an adapter's has two or a few more, at most {MAX_MEMBERS}."
        )
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise AdapterError("the zip holds two files of one name; it is damaged or made to deceive.")
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or member.filename.startswith(("/", "\\")) or ":" in parts[0] or "\0" in member.filename:
            raise AdapterError(f"the zip holds {brief(member.filename)}, which points outside of it; it is refused.")
        if (member.external_attr >> 16) & 0o170000 == 0o120000:
            raise AdapterError(f"the zip holds a symbolic link, {brief(member.filename)}; it is refused.")
    found: dict[str, zipfile.ZipInfo] = {}
    for wanted in (CONFIG, TENSORS):
        here = [m for m in members if m.filename.rsplit("/", 1)[-1] == wanted and m.filename.count("/") <= 1]
        here = [m for m in here if not m.filename.startswith("__MACOSX/")]
        if len(here) > 1:
            raise AdapterError(f"the zip holds {len(here)} adapters; zip one folder with {CONFIG} and {TENSORS}.")
        if not here:
            pickles = [name for name in names if name.lower().endswith(PICKLE_NAMES)]
            if wanted == TENSORS and pickles:
                raise AdapterError(
                    f"the zip holds {brief(pickles[0])}, a pickle, which can run any code when it is opened, so it is "
                    f"refused. Save the adapter with safe_serialization=True, which writes {TENSORS}."
                )
            raise AdapterError(f"the zip holds no {wanted}; zip an adapter's folder with {CONFIG} and {TENSORS}.")
        found[wanted] = here[0]
    for name, member in found.items():
        if member.flag_bits & 0x1:
            raise AdapterError(f"{name} in the zip is encrypted; zip it without a password.")
        top = MAX_CONFIG if name == CONFIG else limit
        if member.file_size > top:
            raise AdapterError(f"{name} is {member.file_size / 2**20:.0f} MiB unpacked; at most {top / 2**20:.0f} MiB.")
        if member.file_size > MAX_RATIO * max(member.compress_size, 4096):
            raise AdapterError(f"{name} unpacks to more than {MAX_RATIO} times its size; it is refused as a zip bomb.")
    if found[CONFIG].filename.rpartition("/")[0] != found[TENSORS].filename.rpartition("/")[0]:
        raise AdapterError(f"{CONFIG} and {TENSORS} lie in different folders of the zip; put them in one.")
    return found


def _copy(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, limit: int) -> None:
    """Copies one member and counts the bytes that come out, since the size in the zip's directory may be false."""
    written = 0
    with zipped.open(member) as source, open(target, "xb") as out:
        while chunk := source.read(2**20):
            written += len(chunk)
            if written > min(limit, member.file_size):
                raise AdapterError(f"{target.name} unpacks to more than the zip says; it is refused as a zip bomb.")
            out.write(chunk)
