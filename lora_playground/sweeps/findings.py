"""What a sweep shows: where the loss curves of the ranks part, which rank is enough, what the adapters can hold, how
many of their directions they use. Numbers only; pictures and sentences are `plots.sweeps`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from lora_playground.analysis.spectra import stable_rank
from lora_playground.evaluation import interval
from lora_playground.sweeps.standing import Member

MARGIN = 0.02
"""A curve has parted from the lowest one where it is higher by this share, and stays so."""
AXES = ("rank", "learning_rate", "variant")
"""What the heat map shows, in the order in which two are chosen; seeds are averaged."""


@dataclass(frozen=True)
class Curve:
    """The validation loss of one rank over the steps, the mean of its runs.

    Attributes:
        runs: how many. parts: the step from which on it lies above the lowest curve by more than `MARGIN`, None where
            it does not at the end.
    """

    rank: int
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    runs: int
    parts: int | None = None


@dataclass(frozen=True)
class Scored:
    """The score of one rank of one variant, the mean of its seeds, at the learning rate that served it best.

    Attributes:
        low, high: Wilson's interval at 95% for the test rows, which are the same for all seeds and so count once.
        scores: of the seeds. n: test rows.
    """

    variant: str
    rank: int
    score: float
    low: float
    high: float
    n: int
    scores: tuple[float, ...]
    learning_rate: float | None = None


@dataclass(frozen=True)
class Capacity:
    """Attributes:
    target_bits: −log₂ of what is to be learned, under the base: answers' tokens, once through, by its loss.
    held: {(variant, rank): (trained parameters, bits at `bits` a parameter)}.
    """

    target_bits: float
    held: dict[tuple[str, int | None], tuple[int, float]]
    bits: float = 2.0


@dataclass(frozen=True)
class Utilisation:
    """Attributes:
    points: (rank, stable rank, the mean over modules and runs). slope: of log stable rank over log rank; None where
        there are not two ranks.
    """

    points: tuple[tuple[int, float], ...]
    slope: float | None


@dataclass(frozen=True)
class Heat:
    """One number for each pair of values of two swept options.

    Attributes:
        cells: rows of `y`, columns of `x`; None where no run is done. measure: 'score' or 'loss'.
    """

    x: str
    y: str
    xs: tuple[Any, ...]
    ys: tuple[Any, ...]
    cells: tuple[tuple[float | None, ...], ...]
    measure: str


def fan(members: Sequence[Member]) -> list[Curve]:
    """Curves by rank, from the smallest; at steps that all runs of a rank have come to. One variant's, the first's."""
    first = next((one.entry.variant for one in members if one.entry.rank is not None), None)
    groups = _by(_at_their_best_rate(one for one in members if one.entry.variant == first), lambda one: one.entry.rank)
    curves = []
    for rank, runs in sorted((rank, runs) for rank, runs in groups.items() if rank is not None):
        seen = [dict(one.progress.validation) for one in runs if one.progress and one.progress.validation]
        if not seen:
            continue
        longest = max(max(one) for one in seen)
        seen = [one for one in seen if max(one) == longest]  # a run that is behind, or out, would bend the mean
        steps = sorted(set.intersection(*(set(one) for one in seen)))
        losses = tuple(fmean(one[step] for one in seen) for step in steps)
        curves.append(Curve(rank, tuple(steps), losses, len(seen)))
    return [Curve(one.rank, one.steps, one.losses, one.runs, _parting(one, curves)) for one in curves]


def _parting(curve: Curve, curves: Sequence[Curve]) -> int | None:
    """The first step from which on a curve stays above the lowest of all curves."""
    parted = None
    for step, loss in zip(curve.steps, curve.losses):
        here = [other.losses[other.steps.index(step)] for other in curves if step in other.steps]
        above = loss > (1 + MARGIN) * min(here)
        parted = (step if parted is None else parted) if above else None
    return parted


def scores_by_rank(members: Iterable[Member]) -> list[Scored]:
    """Scores of the runs that are done, by variant and rank."""
    rows = []
    done = [one for one in members if one.score and one.entry.rank is not None]
    groups = _by(done, lambda one: (one.entry.variant, one.entry.rank))
    for (variant, rank), runs in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        rates = _by(runs, lambda one: one.entry.learning_rate)
        rate, best = max(rates.items(), key=lambda item: fmean(_score(one) for one in item[1]))
        scores = tuple(_score(one) for one in best)
        rows_asked = min(int((one.score or {}).get("n", 0)) for one in best)
        mean = fmean(scores)
        rows.append(Scored(variant, int(rank or 0), mean, *interval(mean, rows_asked), rows_asked, scores, rate))
    return rows


def enough(scored: Sequence[Scored]) -> tuple[Scored, Scored] | None:
    """(the smallest rank whose score lies within the interval of the best, the best); None without scores."""
    if not scored:
        return None
    best = max(scored, key=lambda one: (one.score, -one.rank))
    same = [one for one in scored if one.variant == best.variant and one.score >= best.low]
    return min(same, key=lambda one: one.rank), best


def capacity(members: Iterable[Member]) -> Capacity | None:
    """Bits of the targets against bits that each adapter holds; None until a run is done."""
    held: dict[tuple[str, int | None], tuple[int, float]] = {}
    bits = None
    for member in members:
        plan = member.progress.plan if member.progress is not None else {}
        if parameters := plan.get("trainable_parameters"):
            held[(member.entry.variant, member.entry.rank)] = (int(parameters), 2.0 * int(parameters))
        result = member.result or {}
        base, tokens = (result.get("validation_loss") or {}).get("base"), result.get("target_tokens")
        if base is not None and tokens:
            bits = float(base) / math.log(2) * int(tokens)
    return None if bits is None else Capacity(bits, dict(sorted(held.items(), key=lambda item: item[1][0])))


def utilisation(members: Iterable[Member]) -> Utilisation | None:
    """Stable rank over rank, of the last spectra of runs that are done; of one variant, the first's."""
    seen: dict[int, list[float]] = {}
    first = None
    for member in members:
        spectra = (member.progress.spectra if member.progress else {}).get("spectra", {})
        if member.entry.rank is None or not spectra or member.state != "done":
            continue
        first = first or member.entry.variant
        if member.entry.variant == first:
            values = [float(stable_rank(np.asarray(one))) for one in spectra.values() if one and one[0] > 0]
            if values:
                seen.setdefault(member.entry.rank, []).append(fmean(values))
    if not seen:
        return None
    points = tuple((rank, fmean(values)) for rank, values in sorted(seen.items()))
    if len(points) < 2:
        return Utilisation(points, None)
    x, y = np.log([rank for rank, _ in points]), np.log([value for _, value in points])
    return Utilisation(points, float(np.polyfit(x, y, 1)[0]))


def heat(members: Sequence[Member]) -> Heat | None:
    """The score, or the validation loss where nothing is scored, over two swept options, averaged over the others."""
    swept = [axis for axis in AXES if len({getattr(one.entry, axis) for one in members}) > 1]
    if len(swept) < 2:
        return None
    x, y = swept[:2]
    measure = "score" if any(one.score for one in members) else "loss"
    xs, ys = (_values(members, axis) for axis in (x, y))
    cells = tuple(tuple(_cell(members, {x: a, y: b}, measure) for a in xs) for b in ys)
    return Heat(x, y, xs, ys, cells, measure)


def best(members: Iterable[Member]) -> Member | None:
    """The run with the best score, of equal ones the smallest rank; by its loss where none is scored."""
    done = [one for one in members if one.state == "done"]
    scored = [one for one in done if one.score]
    if scored:
        return max(scored, key=lambda one: (_score(one), -(one.entry.rank or 0), -one.number))
    checked = [one for one in done if one.validation_loss is not None]
    return min(checked, key=lambda one: one.validation_loss or 0.0, default=None)


def _cell(members: Iterable[Member], wanted: dict[str, Any], measure: str) -> float | None:
    here = [one for one in members if all(getattr(one.entry, axis) == value for axis, value in wanted.items())]
    if measure == "score":
        found = [_score(one) for one in here if one.score]
    else:
        found = [one.validation_loss for one in here if one.state == "done" and one.validation_loss is not None]
    return fmean(found) if found else None


def _at_their_best_rate(members: Iterable[Member]) -> list[Member]:
    """Of each rank the runs at the learning rate that has the lowest loss at the last step that its runs came to."""
    kept: list[Member] = []
    for runs in _by(members, lambda one: one.entry.rank).values():
        rates = _by(runs, lambda one: one.entry.learning_rate)

        def key(rate: Any, rates: dict[Any, list[Member]] = rates) -> tuple[int, float]:
            losses = [one.validation_loss for one in rates[rate] if one.validation_loss is not None]
            return -max(one.step for one in rates[rate]), fmean(losses) if losses else math.inf

        kept += rates[min(rates, key=key)]
    return kept


def _values(members: Iterable[Member], axis: str) -> tuple[Any, ...]:
    found = dict.fromkeys(getattr(one.entry, axis) for one in members)
    return tuple(sorted(found, key=lambda value: (value is None, value if axis != "variant" else 0)))


def _score(member: Member) -> float:
    return float((member.score or {}).get("adapted", 0.0))


def _by(members: Iterable[Member], key: Any) -> dict[Any, list[Member]]:
    groups: dict[Any, list[Member]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    return groups
