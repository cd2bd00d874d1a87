"""The scores over the weights of a mixture as a sentence, and the predictors of interference as a table. It takes plain
values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_playground.ui.words import escape
from lora_playground.wording import counted

PREDICTORS = {"cosine": "cosine", "reads": "what they read", "writes": "what they write", "on_data": "‖ΔW₂h‖/‖ΔW₁h‖"}


def sentence(found: dict[str, Any], names: Sequence[str]) -> str:
    """How the chosen mixture scores on each task, beside the adapter alone, the plain mean and the random control."""
    parts = []
    for task, about in enumerate(found["tasks"]):
        kinds = {
            kind: next(
                (p["scores"][task] for p in found["points"] if p["kind"] == kind and p["scores"][task] is not None),
                None,
            )
            for kind in ("asked", "mean", "random")
        }
        alone = _alone(found, task, about["index"])
        asked = kinds["asked"]
        if asked is None or asked["value"] is None:
            continue
        beside = [f"{alone['value']:.0%} alone"] if alone else []
        beside += [f"{kinds['mean']['value']:.0%} in the plain mean"] if kinds["mean"] else []
        beside += [f"{kinds['random']['value']:.0%} beside random adapters of equal norm"] if kinds["random"] else []
        span = f"{asked['value']:.0%} [{asked['low']:.0%}, {asked['high']:.0%}]"
        parts.append(f"{names[about['index']]} solves {span} of its test in this mixture ({', '.join(beside)})")
    if not parts:
        return "None of these runs has a test part with a metric, so there is nothing to score."
    rows = max((score["n"] for point in found["points"] for score in point["scores"] if score), default=0)
    return "; ".join(parts) + f". {counted(rows, 'row')} each; intervals at 95%."


def _alone(found: dict[str, Any], task: int, index: int) -> dict[str, Any] | None:
    for point in found["points"]:
        if point["kind"] == "grid" and all(w == float(i == index) for i, w in enumerate(point["weights"])):
            return dict(point["scores"][task])
    return None


def table(found: dict[str, Any], names: Sequence[str]) -> str:
    """A line for each ordered pair: the predictors, and the first task's drop after the second adapter is added."""
    if not found["pairs"]:
        return ""
    head = "".join(
        f"<th>{title}</th>"
        for title in (
            "Task of", "with this one added", "cosine", "reads alike <small>(chance)</small>",
            "writes alike <small>(chance)</small>", "‖ΔW₂h‖ / ‖ΔW₁h‖ on its data", "score lost",
        )
    )  # fmt: skip
    rows = "".join(_row(pair, names) for pair in found["pairs"])
    told = ", ".join(f"{PREDICTORS[name]} {value:+.2f}" for name, value in found["agreement"].items())
    judged = f"Rank correlation with the loss over these pairs: {told}." if told else (
        "Two pairs are too few to judge a predictor; compare the rows."
    )  # fmt: skip
    body = f'<div class="lp-lab-scroll"><table class="lp-lab-table"><tr>{head}</tr>{rows}</table></div>'
    return f'<div class="lp-card"><h3>What would have foretold it</h3>{body}<p class="lp-note">{judged}</p></div>'


def _row(pair: dict[str, Any], names: Sequence[str]) -> str:
    lost = "–" if pair["drop"] is None else counted(100 * pair["drop"], "point", f"{100 * pair['drop']:.0f}")
    spans = (
        ""
        if pair["drop"] is None
        else f" <small>{pair['alone']['value']:.0%} → {pair['together']['value']:.0%}</small>"
    )
    on_data = "–" if pair["on_data"] is None else f"{pair['on_data']:.2f}"
    cosine = f"{pair['cosine']:+.2f}".replace("-0.00", "+0.00")
    cells = (
        escape(names[pair["first"]]), escape(names[pair["second"]]), cosine,
        f"{pair['reads']:.0%} <small>({pair['reads_chance']:.0%})</small>",
        f"{pair['writes']:.0%} <small>({pair['writes_chance']:.0%})</small>", on_data, lost + spans,
    )  # fmt: skip
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
