"""Spectra of all modules in one file, so that a large adapter is decomposed once. It knows no run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lora_playground.analysis.spectra import Spectrum
from lora_playground.analysis.tensors import LARGE, TensorFile
from lora_playground.errors import AdapterError

NAME = "spectra.safetensors"


def save_spectra(spectra: Mapping[str, Spectrum], path: Path) -> None:
    """Writes singular values in float64, and the other fields of each spectrum as the file's metadata."""
    rest = {
        name: [s.frobenius, list(s.shape), s.exact, s.error, s.method]
        for name, s in spectra.items()
    }  # fmt: skip
    tensors = {name: np.ascontiguousarray(s.values, dtype=np.float64) for name, s in spectra.items()}
    save_file(tensors, str(path), metadata={"spectra": json.dumps(rest)})


def load_spectra(path: Path) -> dict[str, Spectrum]:
    """Reads a file of `save_spectra`, in its order; raises AdapterError if it is damaged."""
    file = TensorFile(path, *LARGE)
    try:
        rest = json.loads(file.metadata["spectra"])
        return {
            name: Spectrum(file.read(name), norm, (shape[0], shape[1]), exact, error, method)
            for name, (norm, shape, exact, error, method) in rest.items()
        }
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise AdapterError(f"{path.name} is damaged; delete it, and the spectra are computed again.") from error
