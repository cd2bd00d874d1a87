"""Exports a finished run for other tools: as PEFT's folder, as a plain LoRA, or as the whole model with ΔW merged in.

It knows run folders and updates; nothing of queues, training or forms. Torch is imported only to merge weights and to
compare the result with stock PEFT or transformers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lora_playground.analysis.adapter_config import CONFIG
from lora_playground.analysis.plain_lora import EMBEDDINGS, Written, is_embedding, write_plain_lora
from lora_playground.analysis.update import Update, load_updates
from lora_playground.analysis.weights import Weights
from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_card
from lora_playground.errors import ConfigError, PlaygroundError, RunError
from lora_playground.exchange.model_card import base_name, model_card
from lora_playground.models.catalogue import folder_of, is_conv1d, read_config
from lora_playground.runs import Run
from lora_playground.wording import counted

FORMATS = ("peft", "lora", "merged")
TOLERANCE = 0.01
"""Largest relative error ‖ΔW − BA‖/‖ΔW‖ in a module when a dense update is turned into a plain LoRA without a given
rank."""


def check(format: str, rank: int | None = None) -> None:
    """Raises ConfigError if there is no such format, or a rank is given and the format takes none."""
    if format not in FORMATS:
        raise ConfigError("format", format, f"choose one of {', '.join(FORMATS)}")
    if rank is not None and (format != "lora" or isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ConfigError("rank", rank, "it is a whole number of at least 1, and only for the format lora")


def export(run: Path, format: str, out: Path, rank: int | None = None) -> dict[str, Any]:
    """Writes a finished run to the new or empty folder `out`.

    Args:
        run: the run's folder.
        format: 'peft': the adapter as it was saved. 'lora': a plain LoRA that stock PEFT loads; exact where the
            update has factors, else its truncated SVD. 'merged': the model itself, W + ΔW, in the type that the base
            is stored in, which `AutoModelForCausalLM` loads.
        rank: for 'lora', the highest rank a module may get; None keeps factors whole, and dense updates to within
            `TOLERANCE`.

    Returns:
        format, out, bytes, files; note: a remark for the user, or ''. For 'lora' and 'merged' also exact: whether
        stock PEFT or transformers, having loaded the result, gave the same logits. For 'lora' also rank, relative_error
        (‖ΔW − BA‖/‖ΔW‖ over all modules) and left_out (parameters that are not in it).

    Raises:
        ConfigError, RunError, ModelError: each says what was given and what to do.
    """
    check(format, rank)
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
    for name, key in ((CONFIG, "base_model_name_or_path"), ("full_delta.json", "base_model")):
        if (out / name).is_file():
            settings = json.loads((out / name).read_bytes())
            settings[key] = base_name(config.model.source)
            (out / name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    note = ""
    if config.variant.name == "full":
        note = "PEFT has no format for full fine-tuning: full_delta.json says how to apply delta.safetensors."
    _card(run, config, out, note)
    return {"note": note}


def _lora(run: Path, config: RunConfig, out: Path, rank: int | None) -> dict[str, Any]:
    updates = load_updates(Run(run).update_path)
    folder = folder_of(config.model.source)
    whole: dict[str, np.ndarray] = {}
    if folder is not None and rank is None and all(u.factored for u in updates if _low_rank(u)):
        updates, whole = _beyond_lora(updates, Weights(folder))
    written = write_plain_lora(
        updates,
        out,
        base=base_name(config.model.source),
        fan_in_fan_out=_fan_in_fan_out(run, config),
        rank=rank,
        tolerance=TOLERANCE,
        whole=whole,
    )
    note, exact = _lora_note(written), False
    if written.relative_error == 0.0 and not written.left_out:
        note, exact = _compared(run, config, out)
    about = f"A plain LoRA of rank up to {written.rank} (s = 1) with the same update. "
    _card(run, config, out, about + (note or "Stock PEFT gives the same logits with it."))
    return {
        "rank": written.rank,
        "relative_error": written.relative_error,
        "exact": exact,
        "left_out": written.left_out,
        "note": note,
    }


def _low_rank(update: Update) -> bool:
    """Whether a LoRA can hold an update: it is of a linear module inside the layers."""
    last = update.name.rpartition(".")[2]
    return len(update.shape) == 2 and last not in ("weight", "bias", "lm_head", *EMBEDDINGS)


def _beyond_lora(updates: list[Update], base: Weights) -> tuple[list[Update], dict[str, np.ndarray]]:
    """Updates that a LoRA can hold, and the new values of all other parameters."""
    factored, whole = [], {}
    for update in updates:
        module = update.name.removesuffix(".weight")
        if update.factored and is_embedding(module):
            # An update named after the parameter also acts on an LM head that is tied to the embedding.
            tied = module != update.name and not base.has_head
            factored += [Update(name, update.B, update.A) for name in (module, *["lm_head"] * tied)]
        elif update.dense is not None:
            name = update.name if update.name.endswith((".weight", ".bias")) else f"{update.name}.weight"
            value = update.matrix() + base.weight(update.name, update.shape)
            whole[name] = value.T if name != update.name and base.turned(update.name) else value
        else:
            factored.append(update)
    adapted = {update.name for update in factored}
    for name in list(whole):  # PEFT saves a module without adapter whole: weight and bias
        owner, _, leaf = name.rpartition(".")
        other = f"{owner}.{'weight' if leaf == 'bias' else 'bias'}"
        if owner not in adapted and other not in whole and (shape := base.shape(other)) is not None:
            whole[other] = base.weight(other, shape)
    return factored, whole


def _compared(run: Path, config: RunConfig, out: Path) -> tuple[str, bool]:
    """(note, whether it is exact): compares the export, loaded by stock PEFT, with the run's update on its base."""
    from lora_playground.exchange import verification

    folder = folder_of(config.model.source)
    if folder is None or not verification.fits(folder):
        why = "its base model is not on this disk" if folder is None else "there is too little free memory"
        return f"Not compared with stock PEFT: {why}. By arithmetic nothing is lost.", False
    found = verification.compare(folder, out, load_updates(Run(run).update_path))
    if found <= verification.TOLERANCE:
        return "", True
    return f"Stock PEFT gives logits with it that differ by {found:.2g} of the largest.", False


def _lora_note(written: Written) -> str:
    text = (
        f"This is the nearest LoRA of rank up to {written.rank}; it misses {written.relative_error:.1%} of the update"
    )
    if written.left_out:
        text += f", with {counted(len(written.left_out), 'parameter')} left out that a LoRA cannot hold (such as norms)"
    return text + "."


def _card(run: Path, config: RunConfig, out: Path, about: str) -> None:
    (out / "README.md").write_text(
        model_card(config, Run(run).result() or {}, _dataset(run, config), about), encoding="utf-8"
    )


def _dataset(run: Path, config: RunConfig) -> str:
    """The dataset's title, number of rows and licence, as far as known."""
    name = config.data.dataset
    try:
        card = get_card(name, run.parent.parent)
    except PlaygroundError:
        return name
    rows = min(card.train, config.data.train_rows or card.train)
    return f"{card.label}, {rows:,} training rows ({card.licence or 'licence not known here'})"


def _fan_in_fan_out(run: Path, config: RunConfig) -> bool:
    """Whether the base's linear modules are Conv1D, by its config or, without one, by the adapter's."""
    folder = folder_of(config.model.source)
    if folder is not None:
        return is_conv1d(config.model.source)
    saved = Run(run).adapter / CONFIG
    return bool(saved.is_file() and json.loads(saved.read_text(encoding="utf-8")).get("fan_in_fan_out"))


def _merged(run: Path, config: RunConfig, out: Path, rank: int | None) -> dict[str, Any]:
    import torch

    from lora_playground.exchange import verification
    from lora_playground.exchange.merging import merge
    from lora_playground.models.loading import load_base

    if config.variant.name == "loftq":
        raise RunError(
            "LoftQ's update makes up for 4-bit storage, so it does not belong on 16-bit weights; export it as lora and "
            "load that on the base stored in 4 bit."
        )
    base = load_base(config.model.model_copy(update={"quantisation": "none"}), device="cpu", dtype="float32")
    model = base.model
    merge(model, load_updates(Run(run).update_path))
    ids = verification.prompts(model)
    wanted = verification.logits(model, ids)
    stored = read_config(base.folder)
    kind = getattr(torch, str(stored.get("dtype") or stored.get("torch_dtype") or "bfloat16"), torch.bfloat16)
    model = model.to(kind)
    model.config.use_cache = True
    model.save_pretrained(str(out))
    base.tokenizer.save_pretrained(str(out))
    del model, base
    found = verification.difference(verification.logits(verification.load(out), ids), wanted)
    exact = found <= verification.TOLERANCE
    notes = []
    if not exact:
        rounded = f" (rounded to {str(kind).removeprefix('torch.')})" if kind != torch.float32 else ""
        notes.append(f"Loaded by transformers, its logits differ by {found:.2g} of the largest{rounded}.")
    if config.model.quantisation != "none":
        notes.append(f"The update was learned on the base stored in {config.model.quantisation}.")
    return {"exact": exact, "note": " ".join(notes)}
