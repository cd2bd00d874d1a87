"""How two runs differ, in sentences with intervals: options, score, forgetting, cost, angle of their updates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_playground.evaluation import interval, paired_interval
from lora_playground.plots.style import significant
from lora_playground.wording import counted


@dataclass(frozen=True)
class Side:
    """One of two runs that are compared: its name, its config as plain data, the contents of its result.json."""

    name: str
    config: Mapping[str, Any]
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Gap:
    """The second run's score minus the first one's, from −1 to 1, with its 95% interval.

    Attributes:
        n: number of rows. paired: whether both answered the same rows and were compared row by row.
    """

    value: float
    low: float
    high: float
    n: int
    paired: bool

    @property
    def sure(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def gap(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None, same_rows: bool) -> Gap | None:
    """The difference of the adapted models' scores.

    If both results have the score of every row, the interval is a paired one. Otherwise it is Newcombe's, from the two
    Wilson intervals (Statistics in Medicine 17, 1998, method 10), which is wider.

    Args:
        first, second: `score` or `forgetting` of the two results. same_rows: whether both answered the same rows.

    Returns:
        None if one of them has no score.
    """
    if not first or not second or not first.get("n") or not second.get("n"):
        return None
    a, b = float(first["adapted"]), float(second["adapted"])
    each, other = first.get("each"), second.get("each")
    if same_rows and each and other and len(each) == len(other):
        return Gap(b - a, *paired_interval(each, other), len(each), True)
    (low_a, high_a), (low_b, high_b) = interval(a, int(first["n"])), interval(b, int(second["n"]))
    low = b - a - math.hypot(b - low_b, high_a - a)
    high = b - a + math.hypot(high_b - b, a - low_a)
    return Gap(b - a, low, high, min(int(first["n"]), int(second["n"])), False)


def describe(first: Side, second: Side, cosine: float | None = None) -> list[str]:
    """Sentences that say how the second run differs from the first.

    Args:
        cosine: of the angle between their updates; None if not known.
    """
    sentences = [_options(first, second)]
    data = _same(first, second, "data.dataset") and _same(first, second, "model.source")
    if data:
        sentences.append(_scored(first, second, gap(first.result.get("score"), second.result.get("score"), True)))
    elif first.result.get("score") and second.result.get("score"):
        sentences.append("Their scores are of different questions or base models, and so are not compared.")
    if _same(first, second, "model.source"):
        kept = gap(first.result.get("forgetting"), second.result.get("forgetting"), True)
        sentences.append(_forgot(second, kept))
    if data:
        sentences.append(_losses(first, second))
    sentences.append(_cost(first, second))
    if cosine is not None:
        shown = round(cosine, 2) + 0.0  # turns -0.0 into 0.0
        sentences.append(f"Their updates have a cosine of {shown:.2f} (1: the same direction, 0: nothing in common).")
    return [sentence for sentence in sentences if sentence]


def _scored(first: Side, second: Side, found: Gap | None) -> str:
    if found is None:
        return ""
    points, ends = _points(found)
    rows = (
        f"on the same {counted(found.n, 'row')}"
        if found.paired
        else f"on {counted(found.n, 'row')}, not compared row by row"
    )
    if not found.sure:
        return f"Score: {second.name} has {points} ({ends}), {rows}: that many rows cannot tell which is better."
    better, worse = (second, first) if found.value > 0 else (first, second)
    return f"Score: {second.name} has {points} ({ends}), {rows}: {better.name} is better than {worse.name}."


def _forgot(second: Side, found: Gap | None) -> str:
    if found is None:
        return ""
    points, ends = _points(found)
    verdict = "it kept more" if found.value > 0 else "it forgot more"
    return f"Base skills: {second.name} has {points} ({ends}): {verdict if found.sure else 'no difference that shows'}."


def _points(found: Gap) -> tuple[str, str]:
    value = 100 * found.value
    more = (
        f"{counted(abs(value), 'point', f'{abs(value):.0f}')} {'more' if value >= 0 else 'fewer'}"
        if abs(value) >= 0.5
        else "as much"
    )
    return more, f"95%: {100 * found.low:+.0f} to {100 * found.high:+.0f}".replace("-", "−")


def _losses(first: Side, second: Side) -> str:
    a, b = ((side.result.get("validation_loss") or {}).get("adapted") for side in (first, second))
    if a is None or b is None:
        return ""
    return f"Validation loss: {significant(b)} against {significant(a)}."


def _cost(first: Side, second: Side) -> str:
    parts = []
    for key, name, unit in (("trainable_parameters", "trained numbers", ""), ("training", "training", " s")):
        a, b = (_number(side.result, key) for side in (first, second))
        if a and b:
            times = b / a
            how = "about as much" if 0.9 < times < 1.1 else f"{significant(times, 2)} times as much"
            parts.append(f"{name} {significant(b)}{unit} against {significant(a)}{unit} ({how})")
    return f"Cost: {'; '.join(parts)}." if parts else ""


def _number(result: Mapping[str, Any], key: str) -> float | None:
    value = (result.get("seconds") or {}).get(key) if key == "training" else result.get(key)
    return None if value is None else float(value)


def _options(first: Side, second: Side) -> str:
    a, b = flat(first.config), flat(second.config)
    unlike = [key for key in dict.fromkeys([*a, *b]) if key != "title" and a.get(key) != b.get(key)]
    if not unlike:
        return "They were made with the same options."
    changes = [f"{_name(key)} {_value(b.get(key))} instead of {_value(a.get(key))}" for key in unlike[:6]]
    more = f", and {len(unlike) - 6} more options" if len(unlike) > 6 else ""
    return f"{second.name} has {', '.join(changes)}{more}, beside {first.name}."


def _same(first: Side, second: Side, path: str) -> bool:
    return flat(first.config).get(path) == flat(second.config).get(path)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted path: value} of a config as nested plain data."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _name(path: str) -> str:
    return {"variant.name": "method", "model.source": "base"}.get(path) or path.rpartition(".")[2].replace("_", " ")


def _value(value: Any) -> str:
    return "the default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
