"""The report on a sweep as plain data, and its figures, each with a sentence: for command line, page and programs."""

from __future__ import annotations

import math
from typing import Any

from lora_playground.plots import sweeps as plots
from lora_playground.sweeps import findings
from lora_playground.sweeps.findings import MARGIN, Scored
from lora_playground.sweeps.status import Member, SweepStatus

PICTURES = ("fan", "score", "heat", "capacity", "utilisation")
"""Names of the figures in the page's order; 'heat' only exists if two options are swept."""


def report(status: SweepStatus) -> dict[str, Any]:
    """Everything about a sweep as data for JSON: its runs, what they show, and the figures' sentences."""
    members, best = status.members, findings.best(status.members)
    scored = findings.scores_by_rank(members)
    found, held, used = (
        findings.smallest_sufficient_rank(scored),
        findings.capacity(members),
        findings.utilisation(members),
    )
    return {
        "sweep": status.sweep.id,
        "label": status.sweep.label,
        "state": status.state,
        "race": status.sweep.race,
        "seconds": round(status.sweep.active, 1),
        "runs": [row(member) for member in members],
        "best": best and row(best),
        "scores_by_rank": [{"variant": one.variant, "rank": one.rank, "score": one.score, "low": one.low,
                            "high": one.high, "n": one.n, "seeds": len(one.scores)} for one in scored],
        "enough": found and {"rank": found[0].rank, "variant": found[0].variant, "best_rank": found[1].rank},
        "parts": {str(one.rank): one.separates_at for one in findings.curves_by_rank(members)},
        "capacity": held and {"target_bits": held.target_bits, "bits_a_parameter": held.bits,
                              "held": [{"variant": name, "rank": rank, "parameters": parameters, "bits": bits}
                                       for (name, rank), (parameters, bits) in held.held.items()]},
        "utilisation": used and {"slope": used.slope, "stable_rank": {str(rank): one for rank, one in used.points}},
        "words": {name: words for name, (_, words) in pictures(status).items() if words},
    }  # fmt: skip


def line(status: SweepStatus) -> dict[str, Any]:
    """A sweep as a row of a list."""
    best = findings.best(status.members)
    return {
        "sweep": status.sweep.id, "label": status.sweep.label, "state": status.state,
        "runs": len(status.members), "ended": sum(one.final for one in status.members),
        "score": best.score["adapted"] if best is not None and best.score else None,
    }  # fmt: skip


def row(member: Member) -> dict[str, Any]:
    """One run of a sweep as a row."""
    entry, score = member.entry, member.score or {}
    return {
        "run": entry.run or None, "name": entry.name, "variant": entry.variant, "rank": entry.rank,
        "learning_rate": entry.learning_rate, "seed": entry.seed, "state": member.state, "step": member.step,
        "validation_loss": member.validation_loss, "score": score.get("adapted"), "low": score.get("low"),
        "high": score.get("high"), "n": score.get("n"), "why": member.why or None,
    }  # fmt: skip


def pictures(status: SweepStatus) -> dict[str, tuple[dict[str, Any], str]]:
    """{name: (figure, sentence)} of what the runs have shown so far."""
    members = status.members
    lines = [(one.rank, one.steps, one.losses, one.separates_at) for one in findings.curves_by_rank(members)]
    scored = findings.scores_by_rank(members)
    found = findings.smallest_sufficient_rank(scored)
    rows, pair = [_row(one) for one in scored], [_row(one) for one in found] if found else [None, None]
    missing = sorted({one.entry.rank for one in members if one.state == "out" and one.entry.rank is not None}
                     - {one.rank for one in scored})  # fmt: skip
    unscored = f" The race has left r = {', '.join(map(str, missing))} without a score." if missing and scored else ""
    base = next((one.score["base"] for one in members if one.score), None)
    held, used = findings.capacity(members), findings.utilisation(members)
    target, held_bits = (held.target_bits, held.held) if held else (None, {})
    points, slope = (used.points, used.slope) if used else ((), None)
    made = {
        "fan": (plots.fan_figure(lines, max(one.steps for one in members)), plots.describe_fan(lines, MARGIN)),
        "score": (
            plots.score_figure(rows, base),
            plots.describe_scores(rows, pair[0], pair[1], found[1].n if found else 0) + unscored,
        ),
        "capacity": (
            plots.capacity_figure(target, held_bits),
            plots.describe_capacity(target, held_bits, held.bits if held else math.nan),
        ),
        "utilisation": (plots.utilisation_figure(points, slope), plots.describe_utilisation(points, slope)),
    }
    if (heat := findings.heat(members)) is not None:
        parts = (heat.x, heat.y, heat.xs, heat.ys, heat.cells, heat.measure)
        made["heat"] = (plots.heat_figure(*parts), plots.describe_heat(*parts))
    return {name: made[name] for name in PICTURES if name in made}


def _row(one: Scored) -> plots.Row:
    return one.variant, one.rank, one.score, one.low, one.high, one.scores
