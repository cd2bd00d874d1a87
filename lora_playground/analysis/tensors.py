"""Reads safetensors files with NumPy alone, tensor by tensor, and trusts nothing the file says about itself.

Made for files from strangers and for weights larger than memory; it knows no adapter and no model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_playground.errors import AdapterError

MAX_HEADER = 2 * 2**20
MAX_TENSORS = 5_000
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
    """A tensor as the header declares it, checked: `start` and `stop` are bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def refuse_pickle(path: Path) -> None:
    """Raises AdapterError for a pickle, known by its name or by its first bytes: loading one runs its maker's code."""
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
    """One safetensors file, its header read and checked, its tensors read when asked for.

    Args:
        path: the file.
        max_header: longest header accepted, bytes; max_tensors: most tensors.

    Raises:
        AdapterError: not a safetensors file, or one whose header does not agree with the file.
    """

    def __init__(self, path: Path, max_header: int = MAX_HEADER, max_tensors: int = MAX_TENSORS) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > size - 8:
                    refuse_pickle(path)
                    raise AdapterError(f"{path.name} is no safetensors file, or it is cut short ({size} bytes).")
                if length > max_header:
                    raise AdapterError(
                        f"{path.name}: its header claims {length / 2**20:.1f} MiB; at most {max_header / 2**20:.0f} "
                        "MiB are read. An adapter's header is far smaller: this file is damaged or made to harm."
                    )
                raw = file.read(length)
        except OSError as error:
            raise AdapterError(f"{path.name} cannot be read ({error.strerror}).") from error
        self.entries, self.metadata = self._checked(raw, 8 + length, size, max_tensors)

    def _checked(self, raw: bytes, begin: int, size: int, max_tensors: int) -> tuple[dict[str, Entry], dict[str, str]]:
        name = self.path.name
        try:
            header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            refuse_pickle(self.path)
            raise AdapterError(f"{name} is no safetensors file: its header is not valid JSON.") from error
        if not isinstance(header, dict):
            raise AdapterError(f"{name} is no safetensors file: its header is not a list of tensors.")
        metadata = header.pop("__metadata__", {})
        if len(header) > max_tensors:
            raise AdapterError(f"{name} holds {len(header)} tensors; at most {max_tensors} are read.")
        entries = {key: self._entry(key, value, begin, size) for key, value in header.items()}
        position = begin
        for key, entry in sorted(entries.items(), key=lambda item: item[1].start):
            if entry.start != position:
                raise AdapterError(
                    f"{name}: {_brief(key)} overlaps another tensor or leaves a gap; the file is damaged."
                )
            position = entry.stop
        if position != size:
            raise AdapterError(f"{name} is {size} bytes long but its header accounts for {position}; it is damaged.")
        return entries, metadata if isinstance(metadata, dict) else {}

    def _entry(self, key: str, value: Any, begin: int, size: int) -> Entry:
        where = f"{self.path.name}: {_brief(key)}"
        if not isinstance(value, dict):
            raise AdapterError(f"{where} has no description in the header; the file is damaged.")
        dtype: Any = value.get("dtype")
        shape: Any = value.get("shape")
        offsets: Any = value.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise AdapterError(f"{where} is of type {_brief(str(dtype))}; known here are {', '.join(_DTYPES)}.")
        if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2 or len(shape) > 8:
            raise AdapterError(f"{where} has no valid shape or place in the header; the file is damaged.")
        expected = _DTYPES[dtype].itemsize
        for side in shape:
            expected *= side
        start, stop = begin + offsets[0], begin + offsets[1]
        if stop - start != expected or stop > size:
            raise AdapterError(
                f"{where}: the header claims shape {shape}, {expected} bytes, but gives it {stop - start} "
                f"of a file of {size}; the file is damaged or its header lies."
            )
        return Entry(dtype, tuple(shape), start, stop)

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def read(self, key: str) -> np.ndarray:
        """One tensor; bfloat16 comes as float32, which holds it exactly, all else in its own type."""
        entry = self.entries[key]
        with open(self.path, "rb") as file:
            file.seek(entry.start)
            data = file.read(entry.stop - entry.start)
        if len(data) != entry.stop - entry.start:
            raise AdapterError(f"{self.path.name} became shorter while it was read; {_brief(key)} is missing.")
        array = np.frombuffer(data, dtype=_DTYPES[entry.dtype]).reshape(entry.shape)
        if entry.dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _brief(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."


_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_CONV1D_WEIGHTS = ("c_attn.weight", "c_proj.weight", "c_fc.weight", "q_attn.weight")


def _model_type(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_bytes()).get("model_type"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


class Weights:
    """The tensors of a model folder, over all its safetensors files; read one at a time.

    Args:
        folder: holds `model.safetensors`, or shards.

    Raises:
        AdapterError: there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.files = [TensorFile(p, 100 * 2**20, 200_000) for p in sorted(folder.glob("*.safetensors"))]
        if not self.files:
            raise AdapterError(f"{folder} holds no safetensors file, so the base's weights cannot be looked at.")
        self._where = {key: file for file in self.files for key in file.entries}
        self._turned = _model_type(folder) in _CONV1D_MODELS

    def shape(self, module: str) -> tuple[int, ...] | None:
        """Shape of a module's weight as stored; None where there is none."""
        key = self._key(module)
        return None if key is None else self._where[key].entries[key].shape

    def weight(self, module: str, shape: tuple[int, ...]) -> np.ndarray:
        """W of a module in (out, in) layout, float32 or float64.

        Args:
            module: 'model.layers.0.self_attn.q_proj', or a parameter's own name.
            shape: the update's, which W must have.

        Raises:
            AdapterError: the base has no such module, or of another shape.
        """
        key = self._key(module)
        if key is None:
            raise AdapterError(f"the base model has no module {module}; this adapter belongs to another base model.")
        W = self._where[key].read(key)
        # GPT-2's Conv1D stores (in, out); a parameter asked for by its own name comes as it is stored.
        own = module.endswith((".weight", ".bias"))
        if not own and W.ndim == 2 and (self._turned and key.endswith(_CONV1D_WEIGHTS)):
            W = W.T
        if W.shape != shape:
            raise AdapterError(
                f"{module}: the update is {shape} but the base's weight is {W.shape}; "
                "this adapter belongs to another base model."
            )
        return W if W.dtype in (np.float32, np.float64) else W.astype(np.float32)

    def _key(self, module: str) -> str | None:
        """A checkpoint may name its tensors with or without the head model's own prefix ('transformer.', 'model.')."""
        stems = [module, module.removeprefix("transformer."), module.removeprefix("model."), f"model.{module}"]
        for stem in stems:
            for key in (f"{stem}.weight", stem):
                if key in self._where:
                    return key
        if module in ("lm_head", "lm_head.weight"):  # tied to the embedding, stored once
            return next((key for key in self._where if key.endswith(("embed_tokens.weight", "wte.weight"))), None)
        return None
