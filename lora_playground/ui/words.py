"""Numbers, durations and states in words. Pure functions of plain values; no Gradio, no run."""

from __future__ import annotations

import html
import math

PHASES = {
    "queued": "waiting for its turn",
    "loading": "loading the model",
    "training": "training",
    "saving": "saving",
    "evaluating": "asking both models the test questions",
    "done": "done",
    "failed": "failed",
    "cancelled": "stopped",
    "interrupted": "interrupted",
}
"""The words on screen for each state of a job and each phase of a run."""


def escape(text: object) -> str:
    """Text escaped for HTML and its attributes. All text that models, files or people wrote must go through it."""
    return html.escape(str(text), quote=True).replace("\x00", "")


def significant(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits, without an exponent unless it is tiny: 0.0123, 12.3, 1230."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - size)}f}"


def count(value: float) -> str:
    """A whole quantity: 930, 1200, 12.3k, 1.2M, 3.4B."""
    if abs(value) < 1e4:
        return f"{value:.0f}"
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{significant(value / limit)}{unit}"
    return f"{value:.0f}"


def size(bytes_: float) -> str:
    """Bytes with a decimal unit: 812 B, 1.2 MB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if bytes_ >= limit:
            return f"{significant(bytes_ / limit)} {unit}"
    return f"{bytes_:.0f} B"


def duration(seconds: float) -> str:
    """Seconds: 0.8 s, 45 s, 2 min 5 s, 1 h 12 min."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rough(seconds: float) -> str:
    """A rough time: a few seconds, about half a minute, about 4 minutes, more than a day."""
    if seconds < 8:
        return "a few seconds"
    if seconds >= 86400:
        return "more than a day"
    minutes = seconds / 60
    named = [(14, "ten seconds"), (25, "20 seconds"), (45, "half a minute"), (90, "a minute")]
    named += [(570, f"{minutes:.0f} minutes"), (1620, f"{5 * round(minutes / 5)} minutes")]
    named += [(2700, "half an hour"), (5400, "an hour"), (86400, f"{minutes / 60:.0f} hours")]
    return "about " + next(said for limit, said in named if seconds < limit)


def expected(least: float, most: float) -> str:
    """A time between two bounds, as precise as they allow: 'about 28 to 44 s', 'about a minute', 'minutes to hours'."""
    if most < 8 or least >= 86400:
        return rough(most)
    if most < 3 * least and most < 86400:
        return f"about {span(least, most)}"
    if most < 8 * least:
        return rough((least * most**3) ** 0.25)  # nearer to the upper bound, since people mind waiting longer than told
    low, high = (next(unit for limit, unit in _UNITS if seconds < limit) for seconds in (least, most))
    return low if low == high else f"{low} to {high}"


_UNITS = ((60, "seconds"), (3600, "minutes"), (86400, "hours"), (math.inf, "days"))


def span(least: float, most: float) -> str:
    """Two times as a rounded range: 28 to 44 s, 50 s to 2 min 10 s, 8 to 43 min; one time if they are within 10%."""
    if most <= 1.1 * least:
        return duration(most)
    low, high = _rough(least), _rough(most)
    return low if low == high else f"{low.split()[0] if low.split()[1:] == high.split()[1:] else low} to {high}"


def _rough(seconds: float) -> str:
    """Rounds to about two digits: whole seconds below a minute, then tens of seconds, from ten minutes on whole
    minutes, from an hour on five minutes."""
    steps = ((10, 0.1), (60, 1), (600, 10), (3600, 60), (math.inf, 300))
    step = next(step for limit, step in steps if seconds < limit or limit == math.inf)
    return duration(round(seconds / step) * step)


def share(part: float, whole: float) -> str:
    """A part of a whole: 0.83%, 12%."""
    if whole <= 0:
        return "–"
    value = 100 * part / whole
    return f"{value:.0f}%" if value >= 10 else f"{significant(value, 2)}%"


def percent(score: float) -> str:
    """A score from 0 to 1 as a percentage: 92%."""
    return f"{100 * score:.0f}%"
