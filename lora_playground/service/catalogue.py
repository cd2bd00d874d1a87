"""Models, datasets, variants, runs, lessons and claims as rows of plain data, the same for command line and
programs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_playground.config import options
from lora_playground.data.catalogue import DatasetCard, get_card, get_dataset, list_datasets
from lora_playground.errors import ConfigError
from lora_playground.estimates.arithmetic import step_flops
from lora_playground.estimates.epochs import epochs
from lora_playground.estimates.memory import Conditions, MemoryEstimate, estimate_memory
from lora_playground.estimates.time import estimate_time
from lora_playground.models.catalogue import ModelCard, folder_of, list_models, module_shapes, sizes_of
from lora_playground.runs import Run, RunStore
from lora_playground.variants import VARIANTS, get_variant
from lora_playground.variants.base import Variant


def model_row(card: ModelCard) -> dict[str, Any]:
    """A base model of the catalogue as a row."""
    return asdict(card)


def models() -> list[dict[str, Any]]:
    """The base models of the catalogue."""
    return [model_row(card) for card in list_models()]


def model(source: str) -> dict[str, Any]:
    """One base model: its card if the catalogue has one, its sizes, and the modules that an adapter can change."""
    text = _text("source", source)
    card = next((model_row(card) for card in list_models() if card.source == text), {"source": text})
    sizes, folder = sizes_of(text), folder_of(text)
    modules = [list(shape) for shape in module_shapes(folder)] if folder is not None else None
    return card | {
        "on_disk": folder is not None, "sizes": asdict(sizes) if sizes is not None else None, "modules": modules,
    }  # fmt: skip


def dataset_row(card: DatasetCard) -> dict[str, Any]:
    """A dataset as a row."""
    return {
        "name": card.name, "label": card.label, "metric": card.metric,
        "train": card.train, "validation": card.validation, "test": card.test,
    }  # fmt: skip


def datasets(home: Path) -> list[dict[str, Any]]:
    """The datasets that ship with the app, then uploads."""
    return [dataset_row(card) for card in list_datasets(home)]


def dataset(home: Path, name: str, rows: int = 3) -> dict[str, Any]:
    """One dataset: its card, and its first rows of each part."""
    if isinstance(rows, bool) or not isinstance(rows, int) or not 0 <= rows <= 100:
        raise ConfigError("rows", rows, "give a whole number from 0 to 100")
    found = get_dataset(get_card(_text("name", name), home).name, home)
    about = {"description": found.card.description, "licence": found.card.licence, "uploaded": found.card.uploaded}
    parts = {"train": found.train, "validation": found.validation, "test": found.test}
    return dataset_row(found.card) | about | {"rows": {part: lines[:rows] for part, lines in parts.items()}}


def variant_row(variant: Variant) -> dict[str, Any]:
    """A variant as a row, with its options."""
    return {
        "name": variant.name,
        "label": variant.label,
        "family": variant.family,
        "paper": variant.card.paper,
        "url": variant.card.url,
        "sentence": variant.card.sentence,
        "learning_rate": {"embedded": variant.learning_rate, "other": variant.real_rate},
        "bits": list(variant.bits),
        "options": [
            {
                "name": option.path,
                "kind": option.kind,
                "default": option.default,
                "low": option.low,
                "high": option.high,
                "choices": list(option.choices),
                "description": option.description,
            }
            for option in options(variant.config)
        ],
    }


def variants() -> list[dict[str, Any]]:
    """All variants, with their options."""
    return [variant_row(variant) for variant in VARIANTS.values()]


def variant(name: str) -> dict[str, Any]:
    """One variant with its options, equation and what it freezes."""
    found = get_variant(_text("name", name))
    return variant_row(found) | {"card": asdict(found.card)}


def run_row(run: Run, state: str) -> dict[str, Any]:
    """A run as a row."""
    config, result = run.config(), run.result() or {}
    score = result.get("score") or {}
    return {
        "run": run.id,
        "label": run.label,
        "state": state,
        "model": config.model.source,
        "dataset": config.data.dataset,
        "variant": config.variant.name,
        "rank": getattr(config.variant, "rank", None),
        "score": score.get("adapted"),
        "base_score": score.get("base"),
        "trainable_parameters": result.get("trainable_parameters"),
    }


def run_record(run: Run, state: str) -> dict[str, Any]:
    """Everything about a run: config, state, result, error."""
    return {
        "run": run.id,
        "label": run.label,
        "state": state,
        "config": json.loads(run.config().model_dump_json()),
        "result": run.result(),
        "error": run.error(),
    }


def estimated(store: RunStore, config: Any, device: str, dtype: str) -> dict[str, Any]:
    """What a run of `config` would cost: memory by cause in bytes, seconds from start to result, epochs.

    Raises:
        ConfigError: the base model is not on this disk, and its sizes are not known.
    """
    found: MemoryEstimate | None = estimate_memory(config, Conditions(device, dtype))
    if found is None:
        known = "its sizes are known once it was fetched; those of the models that are listed are known before"
        raise ConfigError("model.source", config.model.source, known)
    time = estimate_time(store, config, device == "cuda")
    value: dict[str, Any] = asdict(found) | {"least": found.least, "total": found.most, "device": device}
    return (
        value
        | {"beside": value.pop("overhead"), "time": asdict(time) if time else None}
        | {"epochs": epochs(config, store.home), "flops_per_step": step_flops(config)}
    )


def upload_record(card: DatasetCard, reading: Any) -> dict[str, Any]:
    """What was made of an uploaded file: the dataset, the sizes of its parts, and which rows were left out."""
    return {
        "dataset": card.name,
        "train": card.train,
        "validation": card.validation,
        "test": card.test,
        "left_out": reading.bad,
        "repeated": reading.duplicates,
        "columns": reading.layout.roles,
        "metric": card.metric or None,
    }


def columns_of(given: Mapping[str, str] | None) -> dict[str, str] | None:
    """{role: column} as `read_file` takes it. Raises ConfigError if a role or column is no text."""
    if given is None or given == {}:
        return None
    if not isinstance(given, Mapping) or not all(isinstance(part, str) for pair in given.items() for part in pair):
        raise ConfigError("columns", given, "give an object of role and column, such as {'prompt': 'Question'}")
    return dict(given)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(name, value, "give its name, as text")
    return value


def lessons(home: Path) -> list[dict[str, Any]]:
    """The lessons, one row for each."""
    from lora_playground.lessons.catalogue import list_lessons

    return [
        {
            "name": lesson.name,
            "title": lesson.title,
            "minutes": lesson.minutes,
            "after": lesson.after,
            "steps": [{"kind": step.kind, "title": step.title} for step in lesson.steps],
            "runs": list(lesson.runs),
        }
        for lesson in list_lessons(home)
    ]


def claims() -> list[dict[str, Any]]:
    """The claims of papers, one row for each, with what was measured for it and the verdict."""
    from lora_playground.claims import list_claims, verdict
    from lora_playground.claims.measured import measurement

    rows = []
    for claim in list_claims():
        found = measurement(claim.name)
        judged = verdict(claim, found)
        values = {key: round(statistics.fmean(numbers), 6) for key, numbers in found.values.items()} if found else {}
        rows.append({
            "name": claim.name, "title": claim.title, "paper": claim.paper, "url": claim.url, "claim": claim.claim,
            "here": claim.here, "verdict": judged.verdict, "why": judged.why,
            "measured": (found.figures or values) if found else {}, "value": judged.value, "interval": judged.interval,
            "seeds": len(found.seeds) if found else 0, "command": claim.command,
        })  # fmt: skip
    return rows
