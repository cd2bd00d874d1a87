"""A finished run as files for other tools: PEFT's folder, a plain LoRA, or the whole model with the update merged in.

It knows run folders and updates; nothing of queues, training or forms. Only merging imports torch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.analysis.plain_lora import Written, write_plain_lora
from lora_playground.analysis.update import Update, load_updates
from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError, RunError
from lora_playground.models.catalogue import folder_of, is_conv1d, read_config
from lora_playground.runs import Run

if TYPE_CHECKING:
    import torch

FORMATS = ("peft", "lora", "merged")
TOLERANCE = 0.01
"""Share of ‖ΔW‖ that a plain LoRA of a dense update may lose in a module when no rank is given."""


def export(run: Path, format: str, out: Path, rank: int | None = None) -> dict[str, Any]:
    """Writes a finished run to the new or empty folder `out`.

    Args:
        run: the run's folder.
        format: 'peft': the adapter as it was saved. 'lora': a plain LoRA that stock PEFT loads; exact where the
            update has factors, else its truncated SVD. 'merged': the model itself, W + ΔW, in 16 bit, which
            `AutoModelForCausalLM` loads.
        rank: for 'lora', the highest rank a module may get; None keeps factors whole, and dense updates to within
            `TOLERANCE`.

    Returns:
        format, out, bytes, files; for 'lora' also rank, relative_error (‖ΔW − BA‖/‖ΔW‖ over all modules), exact and
        left_out (parameters that a LoRA cannot hold); note: what a person should know, or ''.

    Raises:
        ConfigError, RunError, ModelError: each says what was given and what to do.
    """
    if format not in FORMATS:
        raise ConfigError("format", format, f"choose one of {', '.join(FORMATS)}")
    if rank is not None and (format != "lora" or isinstance(rank, bool) or rank < 1):
        raise ConfigError("rank", rank, "it is a whole number of at least 1, and only for the format lora")
    config = _config(run)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError("out", str(out), "it exists and is not an empty folder; name a new one")
    fresh = not out.exists()
    try:
        made = {"peft": _peft, "lora": _lora, "merged": _merged}[format](run, config, out, rank)
    except BaseException:
        if fresh:
            shutil.rmtree(out, ignore_errors=True)
        raise
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {
        "format": format,
        "out": str(out),
        "bytes": sum(path.stat().st_size for path in files),
        "files": [str(path.relative_to(out)) for path in files],
        **made,
    }


def _config(run: Path) -> RunConfig:
    found = Run(run)
    if found.result() is None or not found.update_path.is_file():
        raise RunError(f"{run.name} has not finished, so there is nothing to export; wait for it or resume it.")
    return found.config()


def _peft(run: Path, config: RunConfig, out: Path, rank: int | None) -> dict[str, Any]:
    if not Run(run).adapter.is_dir():
        raise RunError(f"{run.name} has no adapter folder; export it as lora or merged instead.")
    shutil.copytree(Run(run).adapter, out, dirs_exist_ok=True)
    note = ""
    if config.variant.name == "full":
        note = "PEFT has no format for full fine-tuning: full_delta.json says how to apply delta.safetensors."
    return {"note": note}


def _lora(run: Path, config: RunConfig, out: Path, rank: int | None) -> dict[str, Any]:
    updates = load_updates(Run(run).update_path)
    written = write_plain_lora(
        updates,
        out,
        base=str(folder_of(config.model.source) or config.model.source),
        fan_in_fan_out=_fan_in_fan_out(run, config),
        rank=rank,
        tolerance=TOLERANCE,
    )
    exact = written.relative_error == 0.0
    note = _lora_note(written, exact)
    (out / "README.md").write_text(_readme(config, written, note), encoding="utf-8")
    return {
        "rank": written.rank,
        "relative_error": written.relative_error,
        "exact": exact,
        "left_out": written.left_out,
        "note": note,
    }


def _lora_note(written: Written, exact: bool) -> str:
    if exact:
        return ""
    text = (
        f"This is the nearest LoRA of rank up to {written.rank}; it misses {written.relative_error:.1%} of the update"
    )
    if written.left_out:
        text += f", with {len(written.left_out)} parameters left out that a LoRA cannot hold (such as norms)"
    return text + "."


def _readme(config: RunConfig, written: Written, note: str) -> str:
    exact = note or "It is exact."
    return (
        f"# {config.label}\n\nA plain LoRA (rank up to {written.rank}, s = 1) for the base model "
        f"`{config.model.source}`, made from the update that `{config.variant.name}` learned. {exact}\n\n"
        "```python\nfrom peft import PeftModel\nmodel = PeftModel.from_pretrained(base_model, this_folder)\n```\n"
    )


def _fan_in_fan_out(run: Path, config: RunConfig) -> bool:
    """Whether the base's linear modules are Conv1D, by its config or, where it is not at hand, by the adapter's."""
    folder = folder_of(config.model.source)
    if folder is not None:
        return is_conv1d(config.model.source)
    saved = Run(run).adapter / "adapter_config.json"
    return bool(saved.is_file() and json.loads(saved.read_text(encoding="utf-8")).get("fan_in_fan_out"))


def _merged(run: Path, config: RunConfig, out: Path, rank: int | None) -> dict[str, Any]:
    import torch

    from lora_playground.models.loading import load_base

    if config.variant.name == "loftq":
        raise RunError(
            "LoftQ's update makes up for 4-bit storage, so it does not belong on 16-bit weights; export it as lora and "
            "load that on the base stored in 4 bit."
        )
    base = load_base(config.model.model_copy(update={"quantisation": "none"}), device="cpu", dtype="float32")
    merge(base.model, load_updates(Run(run).update_path))
    stored = read_config(base.folder)
    half = torch.float16 if "float16" in (stored.get("dtype"), stored.get("torch_dtype")) else torch.bfloat16
    model = base.model.to(half)
    model.config.use_cache = True
    model.save_pretrained(str(out))
    base.tokenizer.save_pretrained(str(out))
    note = ""
    if config.model.quantisation != "none":
        note = (
            f"The update was learned on the base stored in {config.model.quantisation} and merged into 16-bit weights."
        )
    return {"note": note}


def merge(model: torch.nn.Module, updates: list[Update]) -> None:
    """Adds every ΔW to a plain model's own weights, in place; W + ΔW is computed in float32.

    Raises RunError where a name or shape does not fit: the update belongs to another base model.
    """
    import torch

    from lora_playground.models.linear import oriented

    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    with torch.no_grad():
        for update in updates:
            module: Any = modules.get(update.name)
            target = parameters.get(update.name) if module is None else module.weight
            weight = target if module is None or target is None else oriented(module)
            shape = None if weight is None else tuple(weight.shape)
            if weight is None or shape != tuple(update.shape):
                raise RunError(
                    f"The update of {update.name} is {tuple(update.shape)}, and the base model has "
                    f"{shape or 'no such module'} there: the run belongs to another base model."
                )
            delta = torch.from_numpy(update.matrix()).to(weight.device)
            weight.copy_((weight.double() + delta).to(weight.dtype))
