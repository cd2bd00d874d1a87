"""Computes ΔW of an adapter with PEFT, for methods whose files alone do not determine it, module by module.

`extract` starts a process, since the web process imports no torch, and yields the updates as they are computed; the
process is this module's `main`. The base is not built as a model: a method needs W of one module at a time, or only its
shape. It knows no run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_playground.analysis.adapter_file import Adapter, open_adapter
from lora_playground.analysis.adapter_methods import INDICES, SHAPES
from lora_playground.analysis.update import Update
from lora_playground.analysis.weights import Weights
from lora_playground.errors import AdapterError, PlaygroundError
from lora_playground.machine import memory, processes

if TYPE_CHECKING:
    import torch

_LIMITS = processes.Limits(memory=memory.total(), cpu_seconds=3600)
"""What the process may use. Adapters come from strangers: one that needs too much must fail alone, not with the
server."""

Pairs = Mapping[str, tuple[int, int]]


def extract(adapter: Adapter, shapes: Pairs, base: Path | None, links: bool = False) -> Iterator[Update]:
    """Yields the update of every module, and of biases that the method changes.

    Args:
        adapter: as opened. links: whether its files may be symbolic links.
        shapes: {module: (out, in)} of the base, at least of those that the adapter changes.
        base: the base's folder; None if its shapes are enough.

    Raises:
        AdapterError: the adapter does not fit the base, or PEFT cannot load it.
    """
    wanted = {module: shapes[module] for module in adapter.parts}
    task = {"adapter": str(adapter.folder.resolve()), "base": str(base or ""), "links": links, "shapes": wanted}
    process = processes.start(
        processes.python("lora_playground.exchange.extraction"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        environment={"HF_HUB_OFFLINE": "1"},
        hub_login=False,
        limits=_LIMITS,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task).encode())
            process.stdin.close()
        yield from _received(process.stdout)
    finally:
        processes.signal_group(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _received(stream: Any) -> Iterator[Update]:
    """Reads updates from the process: for each a line of JSON, then its bytes. The last line says how it ended."""
    while line := stream.readline():
        message = json.loads(line)
        if "error" in message:
            raise AdapterError(message["error"])
        if message.get("done"):
            return
        parts = {}
        for part, shape in message["parts"].items():
            data = stream.read(4 * int(np.prod(shape)))
            parts[part] = np.frombuffer(data, dtype=np.float32).reshape(shape)
        yield Update(message["name"], **parts)
    raise AdapterError("PEFT's process ended before the adapter was read; there may be too little memory for it.")


# ------------------------------------------------------------------------------------------ the process that extracts


def main() -> int:
    """Reads a task as JSON from standard input, and writes updates to standard output."""
    task = json.loads(sys.stdin.buffer.read())
    # What libraries print goes to standard error, not between the updates.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        try:
            for update in updates(
                open_adapter(Path(task["adapter"]), task["links"]),
                {name: (shape[0], shape[1]) for name, shape in task["shapes"].items()},
                Path(task["base"]) if task["base"] else None,
            ):
                arrays = {part: getattr(update, part) for part in ("B", "A", "dense")}
                arrays = {part: np.asarray(a, np.float32) for part, a in arrays.items() if a is not None}
                head = {"name": update.name, "parts": {part: list(array.shape) for part, array in arrays.items()}}
                out.write(json.dumps(head).encode() + b"\n")
                for array in arrays.values():
                    out.write(np.ascontiguousarray(array).data)
            out.write(b'{"done": true}\n')
        except PlaygroundError as failure:
            out.write(json.dumps({"error": str(failure)}).encode() + b"\n")
        except BrokenPipeError:
            return 1
    return 0


def updates(adapter: Adapter, shapes: Pairs, base: Path | None) -> Iterator[Update]:
    """As `extract`, in this process."""
    weights = Weights(base) if base is not None and adapter.needs != SHAPES else None
    modules = list(adapter.parts)
    groups = [modules] if adapter.config.kind.shared else [[module] for module in modules]
    for group in groups:
        yield from _attached(adapter, group, shapes, weights)


def _attached(adapter: Adapter, group: Sequence[str], shapes: Pairs, weights: Weights | None) -> list[Update]:
    """Updates of some modules, by attaching the adapter with PEFT to linear modules that are named like the base's."""
    import warnings

    import torch
    from peft import get_peft_model, set_peft_model_state_dict

    from lora_playground.variants.peft_variant import updates_of

    tree = torch.nn.Module()
    for module in group:
        _place(tree, module, _linear(module, shapes[module], weights))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = get_peft_model(tree, _config(adapter, group))  # type: ignore[arg-type]
            loaded = set_peft_model_state_dict(wrapped, _state(adapter, group, shapes))
    except (ValueError, RuntimeError, TypeError, KeyError, NotImplementedError, AttributeError) as error:
        raise AdapterError(_why(adapter, str(error))) from error
    prefix = adapter.config.kind.prefix
    lost = [
        key for key in loaded.missing_keys if prefix in key and not any(s in key for s in adapter.config.kind.shared)
    ]
    if lost or loaded.unexpected_keys:
        raise AdapterError(_why(adapter, f"{(lost or loaded.unexpected_keys)[0]} is missing or has no place there"))
    return updates_of(wrapped, _factors(adapter))


def _why(adapter: Adapter, output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no reason given"]
    shown = next((line for line in lines if "size mismatch" in line), lines[0])
    return f"this {adapter.config.kind.label} adapter does not fit the base model: {shown[:300]}"


def _linear(module: str, shape: tuple[int, int], weights: Weights | None) -> torch.nn.Linear:
    """A linear module (out, in) with the base's weight and bias; without `weights`, with zeros that take no memory."""
    import torch

    made = torch.nn.Linear(shape[1], shape[0], bias=False, device="meta")
    W = torch.zeros(1).expand(*shape) if weights is None else _tensor(weights.weight(module, shape))
    made.weight = torch.nn.Parameter(W, requires_grad=False)
    bias = weights.shape(f"{module}.bias") if weights is not None else None
    if weights is not None and bias == (shape[0],):
        made.bias = torch.nn.Parameter(_tensor(weights.weight(f"{module}.bias", bias)), requires_grad=False)
    return made


def _tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(array, dtype=np.float32))


def _place(tree: Any, name: str, module: Any) -> None:
    """Adds a module under its dotted name."""
    import torch

    *parents, last = name.split(".")
    for parent in parents:
        if not hasattr(tree, parent):
            tree.add_module(parent, torch.nn.Module())
        tree = getattr(tree, parent)
    tree.add_module(last, module)


def _config(adapter: Adapter, group: Sequence[str]) -> Any:
    """PEFT's config, made only of checked values and module names."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    config, first = adapter.config, group[0]
    rank, alpha = config.of(first)
    given: dict[str, Any] = dict(config.options)
    if config.kind.ranked:
        given["r"] = rank
    shape = {part: adapter.file.entries[key].shape for part, key in adapter.parts[first].items()}
    if config.method == "LORA":
        given |= {"lora_alpha": alpha, "use_rslora": config.rslora, "use_dora": config.dora}
    elif config.method == "IA3":
        # PEFT calls a module with one factor for each input a feed-forward module.
        given["feedforward_modules"] = [first] if shape["ia3_l"][0] == 1 else []
    elif config.method == "FOURIERFT":
        given["n_frequency"] = shape["fourierft_spectrum"][0]
    elif config.method == "SHIRA":
        mask = given.pop("mask_type", "random")
        if INDICES not in adapter.parts[first] and (mask != "random" or "random_seed" not in given):
            raise AdapterError(
                f"this SHiRA adapter does not say where the weights of {first} belong: it holds neither their places "
                "nor the seed of a random mask."
            )
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(config.method)](target_modules=list(group), **given)


def _state(adapter: Adapter, group: Sequence[str], shapes: Pairs) -> dict[str, torch.Tensor]:
    """The tensors of these modules, and those shared by all modules, under the names that PEFT gives them in a file."""
    names = {key for module in group for key in adapter.parts[module].values()}
    state = {_plain(key): _tensor(adapter.finite(key)) for key in adapter.file.entries if key in names}
    for module in group:
        if INDICES in adapter.parts[module]:
            key = adapter.parts[module][INDICES]
            state[_plain(key)] = _places(module, adapter.finite(key), shapes[module])
    return state | {f"base_model.{part}": _tensor(adapter.finite(key)) for part, key in adapter.shared.items()}


def _places(module: str, array: np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
    """Rows and columns (2, k) of SHiRA's single weights, checked to lie within W, which PEFT does not do."""
    import torch

    bounds = np.array(shape)[:, None]
    if array.ndim != 2 or array.shape[0] != 2 or (array < 0).any() or (array >= bounds).any():
        raise AdapterError(f"{module}: {INDICES} name places outside of {shape[0]} by {shape[1]} weights.")
    return torch.from_numpy(array.astype(np.int64))


def _plain(key: str) -> str:
    key = key.replace(".default.", ".").removesuffix(".default")
    return key if key.startswith("base_model.") else f"base_model.model.{key}"


def _factors(adapter: Adapter) -> Any:
    """The function that returns (B, A) of a layer of this method; None if its update has no factors."""
    from lora_playground.variants import VARIANTS

    kind = adapter.config.kind
    if adapter.config.options.get("init_weights") in ("mini", "bat") or adapter.config.dora or not kind.variant:
        return None
    return getattr(VARIANTS[kind.variant], "factors", None)


if __name__ == "__main__":
    sys.exit(main())
