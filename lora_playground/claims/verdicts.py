"""The verdict on a claim: turns the numbers of several seeds into 'shows' or 'does not show', with a 95% interval.

Two sides are compared by the differences between runs of equal seed; the interval of their mean is Student's t over the
seeds. It covers these two configs on this data, and says nothing about other models.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_playground.claims.measured import Measurement, digest
from lora_playground.claims.schema import Best, Claim, Equal, Figures, More, NotHere

SHOWS, NOT, NOT_HERE, OPEN = "shows", "does not show at this scale", "cannot be shown here", "not measured yet"

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for 95%, two-sided, by degrees of freedom from 1 (NIST/SEMATECH e-Handbook, table 1.3.6.7.2)."""


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict.

    Attributes:
        verdict: one of SHOWS, NOT, NOT_HERE, OPEN. why: a sentence that gives the reason.
        value: the difference or figure that decided; None if there is none. interval: its 95% interval, or None.
    """

    verdict: str
    why: str
    value: float | None = None
    interval: tuple[float, float] | None = None


def t_interval(differences: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the mean of 2 to 10 numbers, by Student's t. Raises ValueError for fewer or more."""
    if not 2 <= len(differences) <= len(_T) + 1:
        raise ValueError(f"{len(differences)} seeds; 2 to {len(_T) + 1} are allowed")
    mean = statistics.fmean(differences)
    half = _T[len(differences) - 2] * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean - half, mean + half


def verdict(claim: Claim, measured: Measurement | None) -> Verdict:
    """The verdict on a claim.

    Args:
        measured: what is stored for it. If it is None, out of date or has fewer than two seeds, the verdict is OPEN.
    """
    test = claim.test
    if isinstance(test, NotHere):
        return Verdict(NOT_HERE, test.why)
    if measured is None or measured.config != digest(claim):
        return Verdict(OPEN, f"Nothing is stored for it as it stands; `{claim.command}` measures it.")
    if isinstance(test, Figures):
        return _figures(test, measured.figures)
    if not all(len(measured.values.get(key, [])) >= 2 for key in claim.sides):
        return Verdict(OPEN, f"Too few seeds are stored; `{claim.command}` measures them.")
    values = {key: [_good(claim, one) for one in numbers] for key, numbers in measured.values.items()}
    if isinstance(test, More):
        return _more(claim, test, values)
    if isinstance(test, Equal):
        return _equal(claim, test, values)
    return _best(claim, test, values)


def of_one_seed(claim: Claim, values: Mapping[str, float]) -> str:
    """What one run of each side says about the claim, as a sentence; '' if the claim compares no sides. Raises KeyError
    if a side is missing."""
    test, good = claim.test, {key: _good(claim, values[key]) for key in claim.sides}
    if isinstance(test, More):
        gap, a, b = good[test.a] - good[test.b], claim.sides[test.a].title, claim.sides[test.b].title
        wanted = test.by * abs(values[test.b]) if test.relative else test.by
        size = _points(claim, abs(gap)).lstrip("+")
        outcome = f"{a} is {'ahead of' if gap > 0 else 'behind'} {b} by {size}" if gap else f"{a} and {b} are level"
        as_claimed = gap > 0 and gap >= wanted
        if gap > 0 and not as_claimed:
            outcome += f", where the claim has {_points(claim, wanted).lstrip('+')}"
    elif isinstance(test, Equal):
        gaps = {a: (good[a] - good[b], test.within * (abs(values[b]) if test.relative else 1.0)) for a, b in test.pairs}
        outcome = "; ".join(f"{claim.sides[a].title}: {_points(claim, gap)}" for a, (gap, _) in gaps.items())
        as_claimed = all(abs(gap) <= bound for gap, bound in gaps.values())
    elif isinstance(test, Best):
        leader = max(good, key=lambda key: good[key])
        outcome, as_claimed = f"{claim.sides[leader].title} is the best of {len(good)}", leader == test.side
    else:
        return ""
    return (
        f"In your run: {outcome}. That is {'' if as_claimed else 'not '}as claimed, though one seed cannot decide it."
    )


def _good(claim: Claim, value: float) -> float:
    """The value with its sign turned for losses, so that higher is better."""
    return -value if claim.measure == "validation_loss" else value


def _differences(values: Mapping[str, Sequence[float]], a: str, b: str) -> list[float]:
    return [one - other for one, other in zip(values[a], values[b], strict=True)]


def _more(claim: Claim, test: More, values: Mapping[str, Sequence[float]]) -> Verdict:
    differences = _differences(values, test.a, test.b)
    mean, (low, high) = statistics.fmean(differences), t_interval(differences)
    wanted = test.by * abs(statistics.fmean(values[test.b])) if test.relative else test.by
    told = f"{_points(claim, mean)} [{_points(claim, low)}, {_points(claim, high)}]"
    a, b = claim.sides[test.a].title, claim.sides[test.b].title
    if low > 0 and mean >= wanted:
        return Verdict(SHOWS, f"{a} is ahead of {b} by {told}.", mean, (low, high))
    if low > 0:
        return Verdict(NOT, f"{a} is ahead of {b}, by {told} and not by {_points(claim, wanted)}.", mean, (low, high))
    if high < 0:
        return Verdict(NOT, f"It is the other way round: {told}.", mean, (low, high))
    return Verdict(NOT, f"The seeds do not tell the two apart: {told}.", mean, (low, high))


def _equal(claim: Claim, test: Equal, values: Mapping[str, Sequence[float]]) -> Verdict:
    told, widest = [], (0.0, (0.0, 0.0))
    for a, b in test.pairs:
        differences = _differences(values, a, b)
        mean, (low, high) = statistics.fmean(differences), t_interval(differences)
        scale = abs(statistics.fmean(values[b])) if test.relative else 1.0
        inside = max(abs(low), abs(high)) <= test.within * scale
        told.append(
            (inside, f"{claim.sides[a].title}: {_points(claim, mean)} [{_points(claim, low)}, {_points(claim, high)}]")
        )
        widest = max(widest, (mean, (low, high)), key=lambda one: max(map(abs, one[1])))
    words = "; ".join(text for _, text in told)
    bound = f"{100 * test.within:g}%" if test.relative else _points(claim, test.within).lstrip("+")
    if all(inside for inside, _ in told):
        return Verdict(SHOWS, f"Equal within {bound}: {words}.", *widest)
    return Verdict(NOT, f"Not all are equal within {bound}, or the seeds do not tell: {words}.", *widest)


def _best(claim: Claim, test: Best, values: Mapping[str, Sequence[float]]) -> Verdict:
    means = {key: statistics.fmean(numbers) for key, numbers in values.items()}
    leader = max(means, key=lambda key: means[key])
    if leader == test.side:
        second = max((key for key in means if key != leader), key=lambda key: means[key])
        interval = t_interval(_differences(values, leader, second))
        gap = means[leader] - means[second]
        words = f"It is the best of {len(means)}, {_points(claim, gap)} before {claim.sides[second].title}"
        sure = "" if interval[0] > 0 else ", which the seeds do not tell apart"
        return Verdict(SHOWS, f"{words}{sure}.", gap, interval)
    differences = _differences(values, leader, test.side)
    gap, interval = statistics.fmean(differences), t_interval(differences)
    told = f"{_points(claim, gap)} [{_points(claim, interval[0])}, {_points(claim, interval[1])}]"
    title = claim.sides[leader].title
    if interval[0] > 0:
        return Verdict(NOT, f"{title} is better here, by {told}.", -gap, (-interval[1], -interval[0]))
    return Verdict(
        NOT, f"{title} has the better mean, by {told}: too close to call.", -gap, (-interval[1], -interval[0])
    )


def _figures(test: Figures, figures: Mapping[str, float]) -> Verdict:
    missing = [name for name in test.bounds if name not in figures]
    if missing:
        return Verdict(OPEN, f"Not measured yet: {', '.join(missing)}.")
    told, held = [], []
    for name, (low, high) in test.bounds.items():
        value = figures[name]
        held.append((low is None or value >= low) and (high is None or value <= high))
        told.append(f"{test.labels.get(name, name)} {value:.3g}{'' if held[-1] else ' (not as claimed)'}")
    first = figures[next(iter(test.bounds))]
    return Verdict(SHOWS if all(held) else NOT, f"{'; '.join(told)}.", first)


def _points(claim: Claim, value: float) -> str:
    return f"{value:+.3f}" if claim.measure == "validation_loss" else f"{100 * value:+.1f} points"
