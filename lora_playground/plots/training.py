"""Loss curves, and the small spark of a loss beside a run's name. It knows events, no model and no file."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_playground.plots.style import axis, empty, figure, rounded, significant

_POINTS = 320
"""Most points a curve is drawn with; more cannot be told apart on a screen and only make the update heavy."""


@dataclass
class LossSeries:
    """A run's losses so far.

    Attributes:
        steps, losses: training loss of each step (nats per token).
        validation: (step, loss) pairs.
        planned: steps the run will take, 0 where unknown.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    planned: int = 0


def loss_series(events: Iterable[Mapping[str, Any]]) -> LossSeries:
    """Collects losses from a run's events. After a resume, what was trained again replaces what it repeats."""
    train: dict[int, float] = {}
    checks: dict[int, float] = {}
    planned = 0
    for event in events:
        kind = event.get("type")
        if kind == "plan":
            planned = int(event.get("steps", 0))
            start = int(event.get("start_step", 0))
            train = {step: loss for step, loss in train.items() if step <= start}
            checks = {step: loss for step, loss in checks.items() if step <= start}
        elif kind == "loss":
            train.update(zip(map(int, event.get("steps", [])), map(_number, event.get("losses", []))))
        elif kind == "validation" and "step" in event:
            checks[int(event["step"])] = _number(event.get("loss"))
    steps = sorted(train)
    return LossSeries(steps, [train[step] for step in steps], sorted(checks.items()), planned)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _as_series(source: LossSeries | Iterable[Mapping[str, Any]]) -> LossSeries:
    return source if isinstance(source, LossSeries) else loss_series(source)


def smoothed(losses: Sequence[float], window: float) -> list[float]:
    """Exponential mean with a bias correction, so that it starts at the first value; gaps are passed over."""
    decay = math.exp(-1.0 / max(window, 1e-9))
    mean = weight = 0.0
    result = []
    for loss in losses:
        if math.isfinite(loss):
            mean, weight = decay * mean + (1 - decay) * loss, decay * weight + (1 - decay)
        result.append(mean / weight if weight else math.nan)
    return result


def losses_figure(
    runs: Sequence[tuple[str, str, LossSeries | Iterable[Mapping[str, Any]]]], dark: bool = False, log: bool = False
) -> dict[str, Any]:
    """Losses of several runs over the steps: training faint with its mean over it, validation as points.

    Args:
        runs: (label, colour, series or events), in the order of their slots.
        log: logarithmic loss axis.
    """
    budget = max(60, _POINTS // max(1, len(runs)))
    data: list[dict[str, Any]] = []
    planned = 0
    for label, colour, source in runs:
        series = _as_series(source)
        planned = max(planned, series.planned)
        data += _traces(label, colour, series, budget, single=len(runs) == 1)
    title = "Loss while it trains" if len(runs) <= 1 else "Loss of each run"
    if not any(trace["x"] for trace in data):
        return empty("The curve begins with the first step.", "Loss", dark)
    horizontal = axis("step", dark, rangemode="tozero")
    if planned:
        horizontal["range"] = [0, planned]
    vertical = axis("loss (nats per token)", dark, type="log" if log else "linear")
    return figure(data, title, dark, xaxis=horizontal, yaxis=vertical, showlegend=True, hovermode="x")


def loss_figure(
    source: LossSeries | Iterable[Mapping[str, Any]], colour: str, dark: bool = False, log: bool = False
) -> dict[str, Any]:
    """The loss of one run; see `losses_figure`."""
    return losses_figure([("", colour, source)], dark, log)


def _traces(label: str, colour: str, series: LossSeries, budget: int, single: bool) -> list[dict[str, Any]]:
    stride = max(1, math.ceil(len(series.steps) / budget))
    mean = smoothed(series.losses, max(3.0, len(series.losses) / 25))
    last = len(series.steps) - 1
    picked = [i for i in range(len(series.steps)) if i % stride == 0 or i == last]
    steps = [series.steps[i] for i in picked]
    name = html.escape(label)
    raw = {
        "x": steps,
        "y": rounded(series.losses[i] for i in picked),
        "mode": "lines",
        "line": {"color": colour, "width": 1},
        "opacity": 0.3,
        "hoverinfo": "skip",
        "showlegend": False,
    }
    line = {
        "x": steps,
        "y": rounded(mean[i] for i in picked),
        "mode": "lines" if len(picked) > 2 else "lines+markers",
        "name": "training" if single else name,
        "legendgroup": name,
        "line": {"color": colour, "width": 2.5},
        "hovertemplate": "step %{x}: %{y:.3f}<extra>" + ("training, mean" if single else name) + "</extra>",
    }
    points = {
        "x": [step for step, _ in series.validation],
        "y": rounded(loss for _, loss in series.validation),
        "mode": "markers+lines",
        "name": "validation",
        "legendgroup": name,
        "showlegend": single,
        "line": {"color": colour, "width": 1, "dash": "dot"},
        "marker": {"color": colour, "size": 8, "symbol": "circle-open", "line": {"width": 2}},
        "hovertemplate": "step %{x}: %{y:.3f}<extra>"
        + ("validation" if single else name + ", validation")
        + "</extra>",
    }
    return [raw, line, points]


def describe_loss(source: LossSeries | Iterable[Mapping[str, Any]]) -> str:
    """One or two sentences: where the loss began, where it is, what validation says."""
    series = _as_series(source)
    finite = [loss for loss in smoothed(series.losses, 3.0) if math.isfinite(loss)]
    if not finite:
        return "No step has been taken yet."
    last = series.steps[-1]
    text = f"After {last} steps the training loss went from {significant(finite[0])} to {significant(finite[-1])}."
    if len(finite) == 1:
        text = f"The training loss is {significant(finite[0])} at step {last}."
    checks = [(step, loss) for step, loss in series.validation if math.isfinite(loss)]
    if len(checks) >= 2:
        best = min(checks, key=lambda pair: pair[1])
        text += f" Validation loss went from {significant(checks[0][1])} to {significant(checks[-1][1])}"
        if best[0] != checks[-1][0] and checks[-1][1] > best[1] * 1.01:
            text += (
                f"; it was lowest ({significant(best[1])}) at step {best[0]}, so later steps only fit the training rows"
            )
        text += "."
    return text


def sparkline(losses: Sequence[float], colour: str, width: int = 72, height: int = 20, label: str = "") -> str:
    """An inline SVG of a loss curve for the list of runs; empty text where there are fewer than two values."""
    values = [loss for loss in losses if math.isfinite(loss)]
    if len(values) < 2:
        return ""
    values = smoothed(values, max(1.0, len(values) / 25))
    count = min(len(values), 36)
    values = [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    points = " ".join(
        f"{1 + i * (width - 2) / (count - 1):.1f},{1 + (high - value) / span * (height - 2):.1f}"
        for i, value in enumerate(values)
    )
    words = html.escape(label or f"loss from {significant(values[0])} to {significant(values[-1])}", quote=True)
    return (
        f'<svg class="spark" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{words}"><polyline points="{points}" fill="none" stroke="{html.escape(colour, quote=True)}" '
        f'stroke-width="1.5" stroke-linejoin="round"/></svg>'
    )


__all__ = [
    "LossSeries",
    "describe_loss",
    "loss_figure",
    "loss_series",
    "losses_figure",
    "smoothed",
    "sparkline",
]
