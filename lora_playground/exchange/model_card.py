"""The model card of an exported adapter (its README): what it was trained on, how, and how well it scores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lora_playground.config import RunConfig
from lora_playground.errors import PlaygroundError
from lora_playground.models.catalogue import folder_of, list_models
from lora_playground.variants import get_variant
from lora_playground.wording import counted

_USE = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base!r}){where}
model = PeftModel.from_pretrained(base, "this folder")
```
"""


def base_name(source: str) -> str:
    """The name of a base model without anything private: its id on the hub, or its folder's name without the path."""
    return source if not Path(source).is_absolute() and source.count("/") == 1 else Path(source).name


def base_licence(source: str) -> str:
    """The licence of a base model, from the catalogue or its folder's README; '' if neither has one."""
    known = next((card.licence for card in list_models() if card.source == source and card.licence), "")
    if known:
        return known
    try:
        folder = folder_of(source)
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:4000] if folder else ""
    except (OSError, PlaygroundError):
        return ""
    found = re.search(r"^licen[cs]e:\s*(\S.*)$", text, re.MULTILINE)
    return found[1].strip("'\" ")[:60] if found else ""


def model_card(config: RunConfig, result: dict[str, Any], dataset: str, about: str) -> str:
    """The README as Markdown with the hub's front matter.

    Args:
        result: the run's result. dataset: its title and licence, in words.
        about: a sentence that says how this export relates to what was trained.
    """
    variant, base, licence = get_variant(config.variant.name), base_name(config.model.source), _licence(config)
    lines = ["---", f"base_model: {base}", "library_name: peft", "pipeline_tag: text-generation"]
    lines += [f"license: {licence.lower()}"] * bool(licence) + [
        "tags:",
        "- lora-playground",
        f"- {variant.name}",
        "---",
    ]
    lines += ["", f"# {config.label}", "", f"An adapter for `{base}`. {about}".strip(), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _facts(config, result, dataset, licence)]
    own = config.model.embedded
    where = "  # in a copy of LoRA Playground, which ships with this model" if own else ""
    return "\n".join([*lines, "", _USE.format(base="assets/models/embedded" if own else base, where=where)])


def _between(score: dict[str, Any], low: str, high: str) -> str:
    """The interval of a number in brackets; '' if it is not known."""
    ends = score.get(low), score.get(high)
    return "" if None in ends else f" [{ends[0]:.1%}, {ends[1]:.1%}]"


def _licence(config: RunConfig) -> str:
    return base_licence(config.model.source)


def _facts(config: RunConfig, result: dict[str, Any], dataset: str, licence: str) -> list[tuple[str, str]]:
    variant, options, training = get_variant(config.variant.name), config.variant, config.training
    imported = result.get("imported")
    found = [("Base model", f"{base_name(config.model.source)} ({licence or 'licence not known here'})")]
    if imported:
        found.append(
            ("Origin", f"an adapter from elsewhere ({imported.get('method', 'LoRA')}), imported; not trained here")
        )
        return found
    sizes = [f"{name} {getattr(options, name):g}" for name in ("rank", "alpha") if hasattr(options, name)]
    targets = getattr(options, "target_modules", None)
    where = [] if targets is None else ["all linear modules" if isinstance(targets, str) else ", ".join(targets)]
    found.append(("Method", ", ".join([f"{variant.label} ({variant.card.paper})", *sizes, *where])))
    found.append(("Data", dataset))
    if steps := result.get("steps"):
        rate = training.learning_rate
        shown = f", peak learning rate {rate:g}" if rate else ""
        found.append(
            ("Training", f"{counted(steps, 'step')}, {result.get('tokens', 0):,} tokens, seed {training.seed}{shown}")
        )
    if score := result.get("score"):
        sure = [_between(score, low, high) for low, high in (("base_low", "base_high"), ("low", "high"))]
        words = f"base {score['base']:.1%}{sure[0]}, adapted {score['adapted']:.1%}{sure[1]} "
        words += f"({counted(score['n'], 'row')} of the test part{', 95% intervals' if sure[1] else ''})"
        found.append((f"Score ({score['metric']})", words))
    loss = result.get("validation_loss") or {}
    if loss.get("base") is not None and loss.get("adapted") is not None:
        found.append(("Validation loss", f"base {loss['base']:.3f}, adapted {loss['adapted']:.3f}"))
    if forgot := result.get("forgetting"):
        drop = _between(forgot, "low", "high")
        lost = f", lost {forgot['drop']:.1%}{drop}" if "drop" in forgot else ""
        words = f"base {forgot['base']:.1%}, adapted {forgot['adapted']:.1%}{lost} "
        words += f"({counted(forgot['n'], 'question')}{', 95% interval' if drop else ''})"
        found.append(("The base's own skills", words))
    if derived := result.get("derived"):
        found.append(("Derived", f"from run {derived.get('from', '')}: {derived.get('cut', 'changed')}"))
    return found
