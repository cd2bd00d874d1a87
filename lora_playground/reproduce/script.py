"""Makes the text of a standalone script for a run, in `# %%` cells, and the data file that it trains on.

The script needs torch, transformers, peft and safetensors (bitsandbytes for a quantised base). If the variant is this
app's own, or stock PEFT cannot compute its start, the script uses the package and says why. It writes no file.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
from pathlib import Path
from typing import Any

from lora_playground.config import RunConfig
from lora_playground.reproduce import templates
from lora_playground.reproduce.batches import Recipe, arrays
from lora_playground.reproduce.command import command_line
from lora_playground.runs import Run
from lora_playground.variants import get_variant

STOCK = (
    "lora rslora loraplus lorafa dora eva adalora vera randlora oft boft ia3 hra miss loha lokr fourierft shira delora "
    "gralora pissa olora loraga corda hira c3a full"
).split()
"""Variants whose training needs nothing but stock PEFT (or no PEFT at all)."""

STARTS = ("pissa", "olora", "loraga", "corda")
"""Variants whose start stock PEFT subtracts from W, so that the difference to the start is saved."""

_REASONS = {
    "loftq": "LoftQ's start is computed from the 16-bit and the 4-bit weights by this app's code",
    "osf": "OSF's trained directions are put back at right angles to the kept ones after every step by this app's code",
}
_SKIPPED = {
    "peft_type", "auto_mapping", "peft_version", "runtime_config", "base_model_name_or_path", "revision",
    "inference_mode", "task_type",
}  # fmt: skip


def needs_package(config: RunConfig) -> str:
    """Why stock libraries cannot rebuild this run's adapter, in one sentence; '' if they can."""
    name = config.variant.name
    if config.federated is not None:
        return "It was trained among several parties, and their server's rules are this app's code."
    if name in STARTS and config.model.quantisation != "none":
        return f"Stock PEFT would rewrite the quantised weights for {name}; this app leaves them alone."
    if name in STOCK:
        return ""
    label = get_variant(name).label
    return f"{_REASONS.get(name, f'{label} is not in stock PEFT; its layers are this app’s own')}."


def made(run: Run) -> tuple[str, bytes | None, str]:
    """(script, content of the data file or None, why the package is needed or '') of a finished run.

    Raises:
        RunError, DataError, ConfigError, ModelError: the run, its dataset or its base cannot be read.
    """
    config = run.config()
    recipe = Recipe.of(run) if config.federated is None else None
    why = needs_package(config)
    if why or recipe is None:
        return _with_package(run, config, why), None, why
    from safetensors.numpy import save

    from lora_playground.models.catalogue import resolve
    from lora_playground.models.loading import download, load_tokenizer

    place = resolve(config.model.source)
    folder = place if isinstance(place, Path) else download(place)
    tokenizer = load_tokenizer(folder)[0]
    side = save(arrays(run, recipe, tokenizer, run.folder.parent.parent))
    return _standalone(run, config, recipe, folder, int(tokenizer.pad_token_id)), side, ""


def _with_package(run: Run, config: RunConfig, why: str) -> str:
    settings = config.model_dump_json(indent=1)
    return templates.PACKAGE.format(
        label=config.label, run=run.id, why=why, command=command_line(config), config=settings, versions=_versions()
    )


def _standalone(run: Run, config: RunConfig, recipe: Recipe, folder: Path, pad: int) -> str:
    training = config.training
    values = {
        "base": "assets/models/embedded" if config.model.embedded else config.model.source,
        "seed": training.seed,
        "steps": recipe.steps,
        "accumulation": recipe.accumulation,
        "height": recipe.rows,
        "length": recipe.length,
        "pad": pad,
        "peak": recipe.peak,
        "clip": training.clip,
        "weight_decay": training.weight_decay,
        "bfloat16": recipe.precision == "bfloat16",
    }
    constants = "\n".join(f"{name.upper()} = {value!r}" for name, value in values.items() if name != "base")
    settings = "" if config.variant.name == "full" else _peft_config(config, folder)
    parts = [
        templates.HEAD.format(
            label=config.label, run=run.id, command=command_line(config), versions=_versions(), base=_where(config)
        ),
        templates.SETTINGS.format(
            base=values["base"],
            constants=constants,
            imports=_imports(settings, config),
            settings=settings and f"PEFT = {settings}",
        ),
        templates.DATA,
        _attach(config),
        templates.RATES_RECORDED if training.open_ended else _rates(config),
        *_optimiser(training.optimiser),
        templates.LOOP.format(**_hooks(config)),
        _save(config.variant.name),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _optimiser(name: str) -> list[str]:
    """Source of an optimiser that torch does not have: a copy of its file, with its imports."""
    if name != "muon":
        return []
    text = (Path(__file__).parent.parent / "training" / "muon.py").read_text(encoding="utf-8")
    return [text.replace("from __future__ import annotations\n\n", "")]


def _save(name: str) -> str:
    if name == "full":
        return templates.SAVE_FULL
    return templates.SAVE_START if name in STARTS else templates.SAVE.format(before=templates.BEFORE_SAVE.get(name, ""))


def _where(config: RunConfig) -> str:
    if config.model.embedded:
        return "The base model ships with LoRA Playground: run this in its folder, or set BASE to the model's folder."
    return f"The base model is `{config.model.source}`; set BASE to take it from elsewhere."


def _versions() -> str:
    names = ("torch", "transformers", "peft", "safetensors")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _rates(config: RunConfig) -> str:
    formula = {
        "constant": "1.0",
        "linear": "1.0 - progress",
        "cosine": "0.5 * (1.0 + math.cos(math.pi * progress))",
    }[config.training.schedule]
    return templates.RATES.format(warmup=config.training.warmup, formula=formula, schedule=config.training.schedule)


def _attach(config: RunConfig) -> str:
    options = ["dtype=DTYPE"]
    if config.model.quantisation == "8bit":
        options.append("quantization_config=BitsAndBytesConfig(load_in_8bit=True)")
    elif config.model.quantisation == "4bit":
        options.append(
            'quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",\n'
            "                                           bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=DTYPE)"
        )
    if config.model.quantisation != "none":
        options.append('device_map={"": DEVICE}')
    name = config.variant.name
    if name == "full":
        whole = getattr(config.variant, "embeddings", True)
        attach = templates.ATTACH_FULL.format(
            skip="" if whole else templates.SKIP_EMBEDDINGS, which="True" if whole else "id(parameter) not in KEPT"
        )
    else:
        attach = templates.ATTACH.format(
            before=templates.BEFORE.get(name, ""), after=templates.AFTER.get(name, ""),
            start=templates.KEEP_START if name in STARTS else "",
        )  # fmt: skip
    if config.training.gradient_checkpointing:
        attach += '\nmodel.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})'
    to = ".to(DEVICE)" if config.model.quantisation == "none" else ""
    return templates.LOAD.format(options=", ".join(options), to=to) + attach


def _hooks(config: RunConfig) -> dict[str, str]:
    name = config.variant.name
    fields = config.variant.model_dump()
    groups = templates.GROUPS.get(name, templates.GROUPS[""]).format(**fields)
    return {
        "groups": groups.strip("\n"),
        "optimiser": templates.OPTIMISERS[config.training.optimiser],
        "functions": templates.FUNCTIONS.get(name, "").replace("ORTHOGONALITY", repr(fields.get("orthogonality", 0.0))),
        "after_backward": "    after_backward(step + 1)\n" if name in ("lorafa", "adalora") else "",
        "after_step": "    after_step(step + 1)\n" if name == "adalora" else "",
    }


# ------------------------------------------------------------------------------------------- the PEFT config as code


def _peft_config(config: RunConfig, folder: Path) -> str:
    """The constructor call of the same PEFT config, with the fields that differ from their defaults."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lora_playground.variants.base import Context
    from lora_playground.variants.targets import linear_shapes, select, short_names

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)))
    shapes = linear_shapes(model)
    variant: Any = get_variant(config.variant.name)
    selected = select(shapes, config.variant.target_modules)  # type: ignore[attr-defined]
    targets = short_names(selected, (name for name, _ in model.named_modules()))
    context = Context(config.training.steps, config.training.seed)
    return _call(variant.peft_config(model, config.variant, context, targets), {"task_type": "CAUSAL_LM"})


def _call(value: Any, first: dict[str, Any] | None = None) -> str:
    """Source of a config object: its class and the fields that differ from their defaults."""
    kind = type(value)
    parts = [f"{name}={given!r}" for name, given in (first or {}).items()]
    for field in dataclasses.fields(value):
        if field.name in _SKIPPED or not field.init:
            continue
        given = getattr(value, field.name)
        default: Any = dataclasses.MISSING
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING or not _same(given, default):
            parts.append(f"{field.name}={_source(given)}")
    return f"{kind.__name__}({', '.join(parts)})"


def _same(given: Any, default: Any) -> bool:
    try:
        return bool(given == default)
    except Exception:  # what cannot be compared is written out
        return False


def _source(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return _call(value)
    if isinstance(value, enum.Enum):
        return repr(value.value)
    if isinstance(value, set | frozenset):
        return repr(sorted(value))
    return repr(value)


def _imports(settings: str, config: RunConfig) -> str:
    """The import lines for the names that the config's source uses."""
    import re

    import peft

    names = [name for name in dict.fromkeys(re.findall(r"(\w+)\(", settings)) if hasattr(peft, name)]
    extra = {"eva": ["initialize_lora_eva_weights"]}.get(config.variant.name, [])
    lines = (
        [] if config.variant.name == "full" else [f"from peft import {', '.join([*names, *extra, 'get_peft_model'])}"]
    )
    if config.variant.name == "loraga":
        lines.append("from peft.tuners.lora.loraga import preprocess_loraga")
    if config.variant.name == "corda":
        lines.append("from peft.tuners.lora.config import CordaConfig")
        lines.append("from peft.tuners.lora.corda import preprocess_corda")
    lines.append("from safetensors.numpy import load_file")
    if config.variant.name == "full":
        lines.append("from safetensors.torch import save_file")
    bits = ", BitsAndBytesConfig" if config.model.quantisation != "none" else ""
    lines.append(f"from transformers import AutoModelForCausalLM{bits}")
    return "\n".join(lines)
