"""Checks on the base model that updates give the same logits as the adapter in stock PEFT.

`compare` needs torch; `check_import` calls it in a process of its own, since imported adapters are untrusted and the
web process imports no torch. It knows no run.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.analysis.adapter_config import CONFIG
from lora_playground.analysis.adapter_file import TENSORS
from lora_playground.analysis.update import Update, load_updates
from lora_playground.errors import AdapterError
from lora_playground.machine import memory, processes

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
"""Largest difference of logits, relative to their largest magnitude, that counts as equal."""

_ROUNDING = 0.01
"""From this relative difference on, rounding cannot be the cause."""

_NOT_HANDED_ON = (
    "auto_mapping", "megatron_core", "runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "velora_config", "revision", "base_model_name_or_path",
)  # fmt: skip
_COPIES = 3.0
"""Memory that a comparison needs, as a multiple of the base's size in float32: the model, and loading it."""


def fits(base: Path) -> bool:
    """Whether there is enough free memory to compare on the base in this folder."""
    weights = sum(path.stat().st_size for path in base.glob("model*.safetensors"))
    return 2 * _COPIES * weights < memory.free()  # float32 takes twice the space of stored 16-bit weights


def prompts(model: Any) -> torch.Tensor:
    """Token ids (1, T) for the comparison: the first ids, and others spread over the vocabulary."""
    import torch

    size = model.get_input_embeddings().weight.shape[0]
    return torch.tensor([[place % size for place in range(1, 100)] + [(7919 * n + 3) % size for n in range(1, 25)]])


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits (T, V) of a model, in float64 if the model computes in it, else in float32."""
    import torch

    model.eval()
    with torch.no_grad():
        found = model(input_ids=ids).logits[0]
    return found if found.dtype == torch.float64 else found.float()


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of two models' logits (T, V), relative to the largest magnitude of the second's."""
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))


def load(folder: Path) -> Any:
    """Loads a model folder with transformers, in float32 on the CPU. An adapter in the same folder, which transformers
    would load on its own, is ignored."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory(prefix="lora-playground-") as place:
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("adapter_"):
                (Path(place) / path.name).symlink_to(path.resolve())
        return AutoModelForCausalLM.from_pretrained(place, dtype="float32", use_safetensors=True)


def with_peft(model: Any, adapter: Path) -> Any:
    """The model with the adapter loaded by PEFT, without the config's fields that could make PEFT import other code."""
    import warnings

    from peft import PeftModel

    with tempfile.TemporaryDirectory(prefix="lora-playground-") as place:
        settings = json.loads((adapter / CONFIG).read_bytes())
        kept = {name: value for name, value in settings.items() if name not in _NOT_HANDED_ON}
        (Path(place) / CONFIG).write_text(json.dumps(kept))
        shutil.copyfile(adapter / TENSORS, Path(place) / TENSORS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PeftModel.from_pretrained(model, place)


def compare(base: Path, adapter: Path, updates: Sequence[Update]) -> float:
    """`difference` between the base with the updates added to its weights, and the base with the adapter in PEFT.

    In float32 rounding alone can make these differ by more than TOLERANCE in a deep model. A difference between
    TOLERANCE and _ROUNDING is therefore computed again in float64.
    """
    found = _compared(base, adapter, updates, double=False)
    return _compared(base, adapter, updates, double=True) if TOLERANCE < found < _ROUNDING else found


def _compared(base: Path, adapter: Path, updates: Sequence[Update], double: bool) -> float:
    from lora_playground.exchange.merging import merge

    model = load(base)
    ids = prompts(model)
    model = model.double() if double else model
    merge(model, updates)
    mine = logits(model, ids)
    del model
    tuned = with_peft(load(base), adapter)
    return difference(mine, logits(tuned.double() if double else tuned, ids))


def check_import(base: Path, adapter: Path, updates: Path) -> str:
    """Compares an adapter's saved updates with PEFT, in a process of its own.

    Returns:
        '' if the logits are equal, else a sentence that says why they could not be compared.

    Raises:
        AdapterError: the logits differ, or PEFT cannot load the adapter.
    """
    if not fits(base):
        return "It was not compared with stock PEFT: there is too little free memory for its base model in float32."
    child = processes.start(
        processes.python("lora_playground.exchange.verification"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        environment={"HF_HUB_OFFLINE": "1"},
        hub_login=False,
        limits=processes.Limits(memory=memory.total(), cpu_seconds=3600),
    )
    try:
        told, _ = child.communicate(json.dumps([str(base), str(adapter), str(updates)]).encode())
    finally:
        processes.signal_group(child.pid, signal.SIGKILL)
    lines = told.decode(errors="replace").strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        return "It was not compared with stock PEFT: the process that did so was ended, perhaps for want of memory."
    answer = json.loads(lines[-1])
    if "no_base" in answer:
        return f"It was not compared with stock PEFT: its base model cannot be loaded ({answer['no_base']})."
    if "error" in answer:
        raise AdapterError(f"stock PEFT does not take it on this base: {answer['error']}")
    if not answer["difference"] <= TOLERANCE:
        raise AdapterError(
            f"stock PEFT gives other logits with it on this base than its tensors do here (by "
            f"{answer['difference']:.2g} of the largest), so something in it is not understood. It is not taken."
        )
    return ""


def main() -> int:
    """The process of `check_import`: reads paths as JSON from standard input; its answer is the last line of the
    output."""
    base, adapter, updates = map(Path, json.loads(sys.stdin.buffer.read()))
    answer: dict[str, Any] = {}
    step = "no_base"
    try:
        load(base)
        step = "error"
        answer["difference"] = compare(base, adapter, load_updates(updates))
    except Exception as error:  # files from strangers can make transformers and PEFT raise anything
        answer[step] = str(error).strip().split("\n")[0][:300] or type(error).__name__
    print("\n" + json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
