"""Loss curves, of one run or several. It knows no model and no file."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from lora_playground.plots.style import axis, empty, figure, rounded, shortened, significant
from lora_playground.runs.history import RunProgress
from lora_playground.wording import counted

_POINTS = 320
"""The most points a curve is drawn with; more cannot be seen on a screen and only make the update larger."""


def smoothed(losses: Sequence[float], window: float) -> list[float]:
    """Exponential moving average with bias correction, so that it starts at the first value. Gaps are skipped."""
    decay = math.exp(-1.0 / max(window, 1e-9))
    mean = weight = 0.0
    result = []
    for loss in losses:
        if math.isfinite(loss):
            mean, weight = decay * mean + (1 - decay) * loss, decay * weight + (1 - decay)
        result.append(mean / weight if weight else math.nan)
    return result


def losses_figure(runs: Sequence[tuple[str, str, RunProgress]]) -> dict[str, Any]:
    """Losses of several runs over the steps: training faint with its moving average, validation as points.

    Args:
        runs: (label, colour, progress), in the order of their slots.
    """
    budget = max(60, _POINTS // max(1, len(runs)))
    data: list[dict[str, Any]] = []
    planned = 0
    for label, colour, progress in runs:
        planned = max(planned, progress.planned)
        data += _traces(label, colour, progress, budget, single=len(runs) == 1)
    title = "Loss while it trains" if len(runs) <= 1 else "Loss of each run"
    if not runs:
        return empty("Tick runs to overlay their losses.", title)
    if not any(trace["x"] for trace in data):
        return empty("The curve begins with the first step.", title)
    horizontal = axis("step", rangemode="tozero")
    if planned:
        horizontal["range"] = [0, planned]
    # Invisible ticks keep the axis's numbers away from the first mark, which is on the axis.
    vertical = axis("loss (nats per token)", type="linear")
    vertical |= {"ticks": "outside", "ticklen": 7, "tickcolor": "rgba(0,0,0,0)"}
    height = 320 + 22 * max(0, math.ceil(len(runs) / 2) - 1)  # names of runs stand two in a line below the picture
    return figure(data, title, height, xaxis=horizontal, yaxis=vertical, showlegend=True, hovermode="x")


def loss_figure(progress: RunProgress, colour: str) -> dict[str, Any]:
    """The loss of one run; see `losses_figure`."""
    return losses_figure([("", colour, progress)])


def _traces(label: str, colour: str, progress: RunProgress, budget: int, single: bool) -> list[dict[str, Any]]:
    stride = max(1, math.ceil(len(progress.steps) / budget))
    mean = smoothed(progress.losses, max(3.0, len(progress.losses) / 25))
    last = len(progress.steps) - 1
    picked = [i for i in range(len(progress.steps)) if i % stride == 0 or i == last]
    steps = [progress.steps[i] for i in picked]
    name = html.escape(shortened(label))
    raw = {
        "x": steps,
        "y": rounded(progress.losses[i] for i in picked),
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
        "x": [step for step, _ in progress.validation],
        "y": rounded(loss for _, loss in progress.validation),
        "mode": "markers+lines",
        "name": "validation",
        "legendgroup": name,
        "showlegend": single,
        "line": {"color": colour, "width": 1, "dash": "dot"},
        "marker": {"color": colour, "size": 8, "symbol": "circle-open", "line": {"width": 2}},
        "cliponaxis": False,
        "hovertemplate": "step %{x}: %{y:.3f}<extra>"
        + ("validation" if single else name + ", validation")
        + "</extra>",
    }
    return [raw, line, points]


def describe_loss(progress: RunProgress) -> str:
    """Sentences on the first and the latest training loss, and on the validation loss."""
    finite = [loss for loss in smoothed(progress.losses, 3.0) if math.isfinite(loss)]
    if not finite:
        return "No step has been taken yet."
    last = progress.steps[-1]
    went = f"from {significant(finite[0])} to {significant(finite[-1])}"
    text = f"After {counted(last, 'step')} the training loss went {went}."
    if len(finite) == 1:
        text = f"The training loss is {significant(finite[0])} at step {last}."
    checks = [(step, loss) for step, loss in progress.validation if math.isfinite(loss)]
    if len(checks) >= 2:
        best = min(checks, key=lambda pair: pair[1])
        text += f" Validation loss went from {significant(checks[0][1])} to {significant(checks[-1][1])}"
        if best[0] != checks[-1][0] and checks[-1][1] > best[1] * 1.01:
            text += (
                f"; it was lowest ({significant(best[1])}) at step {best[0]}, so later steps only fit the training rows"
            )
        text += "."
    return text


__all__ = [
    "describe_loss",
    "loss_figure",
    "losses_figure",
    "smoothed",
]
