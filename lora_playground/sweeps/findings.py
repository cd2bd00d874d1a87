"""What a sweep shows: where the loss curves of the ranks separate, the smallest rank that scores like the best, how the
adapters' capacity compares with the data, and how much of its rank an update uses. Numbers only: `plots.sweeps` draws
them and puts them into sentences.
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
from lora_playground.sweeps.status import Member

MARGIN = 0.02
"""A loss curve has separated from the lowest one once it lies above it by this share, and stays there to the end."""
AXES = ("rank", "learning_rate", "variant")
"""Options that can be an axis of the heat map. The first two of them that were swept are shown; seeds are averaged."""


@dataclass(frozen=True)
class Curve:
    """The validation loss of one rank over the steps, averaged over its runs.

    Attributes:
        runs: how many were averaged.
        separates_at: the first step from which the curve stays above the lowest one by more than `MARGIN`; None if it
            ends within that margin.
    """

    rank: int
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    runs: int
    separates_at: int | None = None


@dataclass(frozen=True)
class Scored:
    """The score of one variant at one rank, averaged over the seeds, at the best of the learning rates tried.

    Attributes:
        score: from 0 to 1.
        low, high: Wilson's 95% interval. All seeds answer the same test rows, so these are counted once.
        scores: one for each seed. n: number of test rows.
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
    """How much information the training answers hold, and how much each adapter can store.

    Attributes:
        target_bits: −log₂ of the probability that the base gives to all answers of the training rows: the number of
            their tokens times the base's validation loss in bits.
        held: {(variant, rank): (trained parameters, bits they can store)}.
        bits: bits that one parameter stores; 2 as measured by Z. Allen-Zhu and Y. Li (arXiv 2404.05405).
    """

    target_bits: float
    held: dict[tuple[str, int | None], tuple[int, float]]
    bits: float = 2.0


@dataclass(frozen=True)
class Utilisation:
    """How much of its rank an update uses.

    Attributes:
        points: (rank, stable rank averaged over modules and runs).
        slope: of log(stable rank) over log(rank), fitted by least squares; None if there is only one rank.
    """

    points: tuple[tuple[int, float], ...]
    slope: float | None


@dataclass(frozen=True)
class Heat:
    """A heat map: one number for each pair of values of two swept options.

    Attributes:
        x, y: names of the options. xs, ys: their values.
        cells: one row for each of `ys`, one column for each of `xs`; None if no run is done.
        measure: 'score' or 'loss'.
    """

    x: str
    y: str
    xs: tuple[Any, ...]
    ys: tuple[Any, ...]
    cells: tuple[tuple[float | None, ...], ...]
    measure: str


def curves_by_rank(members: Sequence[Member]) -> list[Curve]:
    """One curve for each rank, smallest first, at the steps that all runs of that rank have reached.

    Only the runs of one variant, the first that has a rank.
    """
    first = next((one.entry.variant for one in members if one.entry.rank is not None), None)
    groups = _by(_at_their_best_rate(one for one in members if one.entry.variant == first), lambda one: one.entry.rank)
    curves = []
    for rank, runs in sorted((rank, runs) for rank, runs in groups.items() if rank is not None):
        seen = [dict(one.progress.validation) for one in runs if one.progress and one.progress.validation]
        if not seen:
            continue
        longest = max(max(one) for one in seen)
        seen = [one for one in seen if max(one) == longest]  # the mean is over runs that are equally far
        steps = sorted(set.intersection(*(set(one) for one in seen)))
        losses = tuple(fmean(one[step] for one in seen) for step in steps)
        curves.append(Curve(rank, tuple(steps), losses, len(seen)))
    return [Curve(one.rank, one.steps, one.losses, one.runs, _separation(one, curves)) for one in curves]


def _separation(curve: Curve, curves: Sequence[Curve]) -> int | None:
    """See `Curve.separates_at`."""
    parted = None
    for step, loss in zip(curve.steps, curve.losses):
        here = [other.losses[other.steps.index(step)] for other in curves if step in other.steps]
        above = loss > (1 + MARGIN) * min(here)
        parted = (step if parted is None else parted) if above else None
    return parted


def scores_by_rank(members: Iterable[Member]) -> list[Scored]:
    """The scores of finished runs, sorted by variant and rank."""
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


def smallest_sufficient_rank(scored: Sequence[Scored]) -> tuple[Scored, Scored] | None:
    """(the smallest rank of the best variant whose score reaches the lower end of the best score's interval, the best
    score itself); None without scores."""
    if not scored:
        return None
    best = max(scored, key=lambda one: (one.score, -one.rank))
    same = [one for one in scored if one.variant == best.variant and one.score >= best.low]
    return min(same, key=lambda one: one.rank), best


def capacity(members: Iterable[Member]) -> Capacity | None:
    """The capacity of the adapters against the data; None until a run is done."""
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
    """How the stable rank of the learned updates grows with the rank: finished runs of one variant, the first that has
    a rank. None until there is one."""
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
    """The score over two swept options, averaged over the others; the validation loss if no run has a score. None if
    fewer than two options were swept."""
    swept = [axis for axis in AXES if len({getattr(one.entry, axis) for one in members}) > 1]
    if len(swept) < 2:
        return None
    x, y = swept[:2]
    measure = "score" if any(one.score for one in members) else "loss"
    xs, ys = (_values(members, axis) for axis in (x, y))
    cells = tuple(tuple(_cell(members, {x: a, y: b}, measure) for a in xs) for b in ys)
    return Heat(x, y, xs, ys, cells, measure)


def best(members: Iterable[Member]) -> Member | None:
    """The run with the best score, of equal ones that with the smallest rank; the one with the lowest validation loss
    if no run has a score. None if no run is done."""
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
    """For each rank only the runs at the best learning rate: that whose runs have come furthest, of equal ones that
    with the lowest mean validation loss."""
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
