"""Recorded runs that ship with the app (made by `tools/record_runs.py`), as frames that the page can play before a run.

Every frame says that it is a recording, and with which settings. It starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from lora_playground.config import RunConfig
from lora_playground.models.catalogue import ASSETS, EMBEDDED
from lora_playground.runs.history import RunProgress
from lora_playground.ui import cards, run_figures
from lora_playground.ui.words import duration, escape

FOLDER = ASSETS / "recordings"


@lru_cache(maxsize=32)
def recording(dataset: str, source: str = "embedded") -> dict[str, Any] | None:
    """The contents of the recording of a dataset on a base model; None if there is none."""
    path = FOLDER / f"{dataset}.json"
    if source != "embedded" or path.parent != FOLDER or not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        manifest = json.loads((ASSETS / "MANIFEST.json").read_text(encoding="utf-8"))
        weights = manifest[(EMBEDDED / "model.safetensors").relative_to(ASSETS).as_posix()]["sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return record if record["how"]["base"] == weights else None  # a base with other weights would answer differently


def base_answers(record: dict[str, Any]) -> str:
    """The prompts with the base's answers, as cards."""
    return cards.probes(RunProgress.of(_events(record, 0)))


def frames(dataset: str) -> list[dict[str, Any]]:
    """The frames: the parts of the live route at each recorded step, and last the result."""
    record = recording(dataset)
    if record is None:
        return []
    config = RunConfig.parse(record["config"])
    label, rank = f"{config.label}", getattr(config.variant, "rank", None)
    ribbon = _ribbon(record)
    made = []
    for picture in record["pictures"]:
        progress = RunProgress.of(_events(record, picture["step"]))
        card = ribbon + cards.progress(label, "training", progress)
        made.append({"card": card, **_drawn(progress, record, rank)})
    result = {**made[-1], "card": ribbon + cards.done(label, record["result"])}
    return [*made, result]


def _drawn(progress: RunProgress, record: dict[str, Any], rank: int | None) -> dict[str, Any]:
    return {
        "probes": cards.probes(progress),
        "curve": run_figures.curve(progress, 0),
        "pictures": run_figures.pictures(progress, record["module"], rank),
    }


def _ribbon(record: dict[str, Any]) -> str:
    how = record["how"]
    machine = (
        f"{how['threads']} thread{'s' * (how['threads'] != 1)} of a CPU" if how["device"] == "cpu" else how["device"]
    )
    made = f"Made by {how['command']} in {duration(how['seconds'])} on {machine}"
    return (
        '<p class="lp-ribbon"><b>Recording</b> Press Train, and this happens. '
        f'<span tabindex="0" title="{escape(made)}">A real run of {duration(how["seconds"])}, played faster</span>: '
        'nothing trains now. <button class="lp-link" data-act="play">Play again</button> '
        '<button class="lp-link" data-act="unplay">Close it</button></p>'
    )


def _events(record: dict[str, Any], until: int) -> Iterator[dict[str, Any]]:
    """The events of the recorded run up to a step."""
    names = [name for name, _, _ in record["plan"]["modules"]]
    yield {"type": "plan", "start_step": 0, "attempt": 1, **record["plan"]}
    many = min(until, len(record["losses"]))
    if many:
        yield {"type": "loss", "steps": list(range(1, many + 1)), "losses": record["losses"][:many]}
    yield from (
        {"type": "validation", "step": step, "loss": loss} for step, loss in record["validation"] if step <= until
    )
    yield from ({"type": "probe", "step": step, "answers": said} for step, said in record["probes"] if step <= until)
    for picture in record["pictures"]:
        if picture["step"] == until:
            ranks = dict(zip(names, picture["effective_rank"], strict=True))
            yield {
                "type": "spectra",
                "step": until,
                "effective_rank": ranks,
                "spectra": {record["module"]: picture["values"]},
            }
