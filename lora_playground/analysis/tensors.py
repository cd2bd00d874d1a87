"""Reads safetensors files tensor by tensor into NumPy arrays: files from strangers, and weights larger than memory.

The library `safetensors` checks that header and file agree; this module adds limits of size, the refusal of pickles,
and bfloat16, which NumPy does not have. It knows no adapter and no model.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from lora_playground.errors import AdapterError

MAX_HEADER = 2 * 2**20
MAX_TENSORS = 5_000
LARGE = (100 * 2**20, 200_000)
"""The limits (bytes of header, number of tensors) for base models' files, which are larger than an adapter's."""
PICKLE_NAMES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Entry:
    """A tensor's entry in the header; `start` and `stop` are bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def refuse_pickle(path: Path) -> None:
    """Raises AdapterError for a pickle, recognised by its name or its first bytes: loading one runs its author's
    code."""
    name = path.name
    if name.lower().endswith(PICKLE_NAMES):
        raise AdapterError(_PICKLE.format(name=name))
    with open(path, "rb") as file:
        start = file.read(16)
    # Pickle protocol 2 and later, torch's zip container, and its older tar and magic-number forms.
    if (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05") and start[2:9] != b"\0" * 6 + b"{":
        raise AdapterError(_PICKLE.format(name=name))
    if start.startswith((b"PK\x03\x04", b"\x93NUMPY")):
        raise AdapterError(_PICKLE.format(name=name))


_PICKLE = (
    "{name} is a pickle (or an archive of pickles), which can run any code when it is opened, so it is refused. "
    "Save the adapter as safetensors (save_pretrained does so by default) and give that file."
)


class TensorFile:
    """One safetensors file: the header is read and checked at once, each tensor by `read`.

    Args:
        path: the file.
        max_header: longest header accepted, bytes; max_tensors: most tensors.

    Attributes:
        entries: {name: Entry}. metadata: the strings stored beside the tensors.

    Raises:
        AdapterError: not a safetensors file, or one whose header does not agree with the file.
    """

    def __init__(self, path: Path, max_header: int = MAX_HEADER, max_tensors: int = MAX_TENSORS) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
            # safe_open itself reads headers of up to 100 MB.
            if max_header < length <= path.stat().st_size - 8:
                raise AdapterError(
                    f"{path.name}: its header claims {length / 2**20:.1f} MiB; at most {max_header / 2**20:.0f} "
                    "MiB are read. An adapter's header is far smaller: this file is damaged or made to harm."
                )
            with safe_open(path, framework="np") as opened:
                self.metadata: dict[str, str] = opened.metadata() or {}
                names = opened.offset_keys()  # in the order of the file; there are no gaps between tensors
                if len(names) > max_tensors:
                    raise AdapterError(f"{path.name} holds {len(names)} tensors; at most {max_tensors} are read.")
                self.entries: dict[str, Entry] = {}
                stop = 8 + length
                for name in names:
                    found = opened.get_slice(name)
                    dtype, shape = found.get_dtype(), tuple(found.get_shape())
                    start, stop = stop, stop + math.prod(shape) * _bits(dtype) // 8
                    self.entries[name] = Entry(dtype, shape, start, stop)
        except SafetensorError as error:
            refuse_pickle(path)
            raise AdapterError(f"{path.name} is no safetensors file, or it is damaged ({str(error)[:200]}).") from error
        except OSError as error:
            raise AdapterError(f"{path.name} cannot be read ({error.strerror or error}).") from error

    def read(self, key: str) -> np.ndarray:
        """One tensor; bfloat16 is converted to float32, which represents it exactly, all else keeps its type."""
        entry = self.entries[key]
        if entry.dtype not in _DTYPES:
            raise AdapterError(
                f"{self.path.name}: {key[:100]} is of type {entry.dtype}; read are {', '.join(_DTYPES)}."
            )
        with open(self.path, "rb") as file:
            file.seek(entry.start)
            data = file.read(entry.stop - entry.start)
        if len(data) != entry.stop - entry.start:
            raise AdapterError(f"{self.path.name} became shorter while it was read; {key[:100]} is missing.")
        array = np.frombuffer(data, dtype=_DTYPES[entry.dtype]).reshape(entry.shape)
        if entry.dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


def _bits(dtype: str) -> int:
    """Bits of one number: 16 of 'BF16', 8 of 'F8_E4M3'. 'BOOL' takes a byte."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8
