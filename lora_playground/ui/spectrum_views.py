"""The figures of the tab Spectrum with their sentences, made from runs and choices. It knows no component.

Every view returns (figure, sentence). If it cannot be shown, it is an empty figure that says why.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_playground import plots
from lora_playground.analysis import alignment as base_alignment
from lora_playground.analysis.spectra import (
    effective_rank,
    energy_captured,
    energy_rank,
    stable_rank,
)
from lora_playground.analysis.subspaces import Side, compare
from lora_playground.analysis.truncation import Truncation, energy_kept
from lora_playground.errors import PlaygroundError
from lora_playground.plots.directions import TITLE as DIRECTIONS
from lora_playground.plots.spectrum import short_name
from lora_playground.plots.style import empty, percent, significant
from lora_playground.ui.shell import Shown
from lora_playground.ui.spectrum_cache import Frames, SpectrumCache
from lora_playground.wording import counted

View = tuple[dict[str, Any], str]
"""(figure, sentence). A sentence may have lines; details follow after `MORE`."""
MORE = "\n\n"
_FIRST = "Tick a run in the list on the left to see what it learned."


@dataclass(frozen=True)
class Subject:
    """A shown run with its spectra so far, its label and its rank budget."""

    shown: Shown
    frames: Frames
    label: str
    rank: int | None

    @property
    def colour(self) -> str:
        return self.shown.colour


def subjects(cache: SpectrumCache, shown: Sequence[Shown]) -> list[Subject]:
    """Reads the shown runs; a run that cannot be read is left out."""
    found = []
    for one in shown:
        try:
            config = one.run.config()
            frames = cache.frames(one.run)
        except PlaygroundError:
            continue
        found.append(Subject(one, frames, one.run.label, getattr(config.variant, "rank", None)))
    return found


def map_view(cache: SpectrumCache, subject: Subject | None, module: str, measure: str, step: int | None) -> View:
    """The map (layers × modules) of one run at one step, with the colour scale of its last step, for replays."""
    title = plots.MEASURES[measure][0]
    if subject is None:
        return empty(_FIRST, title, 360), _FIRST
    index = subject.frames.at(step)
    if index < 0:
        return _nothing_yet([subject], title, 360), ""
    try:
        values = cache.measure(subject.shown.run, subject.frames, index, measure)
        last = cache.measure(subject.shown.run, subject.frames, len(subject.frames.steps) - 1, measure)
    except PlaygroundError as error:
        return empty("The base's weights are not on this disk.", title, 360), f"Not shown: {error}"
    figure = plots.map_figure(values, measure, selected=module, top=max(last.values(), default=0.0))
    return figure, f"{subject.label}: {plots.describe_map(values, measure)}"


def scree_view(cache: SpectrumCache, all_: Sequence[Subject], module: str, log: bool, step: int | None) -> View:
    """Singular values of one module, all ticked runs overlaid."""
    series, ranks, sentences, more = [], [], [], []
    edges: list[tuple[float, str]] = []
    for subject in all_:
        index = subject.frames.at(step)
        values = subject.frames.values[index].get(module) if index >= 0 else None
        if values is None or not len(values):
            if index >= 0:
                sentences.append(f"{subject.label} does not change this module.")
            continue
        sigma = [float(value) for value in values]
        series.append((subject.label, subject.colour, sigma))
        # A dense variant has no rank budget: its bound would be the module's size.
        ranks.append(subject.rank if subject.rank and subject.rank >= _used(values) else None)
        error = subject.frames.errors.get(module, 0.0) if index == len(subject.frames.steps) - 1 else 0.0
        norm = subject.frames.frobenius[index].get(module)
        sentences.append(plots.describe_scree(subject.label, sigma, ranks[-1], norm if error else None))
        more.append(plots.describe_ranks(subject.label, sigma, error, norm if error else None))
        edge, words = _noise(cache, subject, module, values) if index == len(subject.frames.steps) - 1 else (0.0, "")
        if words:
            edges.append((edge, subject.colour))
            sentences[-1] += f" {words}"
    if not series and not sentences:
        return _nothing_yet(all_, "Singular values of ΔW", 354), ""
    known = [rank for rank in ranks if rank]
    marks = known if len(known) == len(series) else list(dict.fromkeys(known))
    figure = plots.scree_figure(series, rank=marks or None, log=log, module=module, edge=edges)
    return figure, MORE.join(filter(None, ("\n".join(sentences), "\n".join(more))))


def _nothing_yet(all_: Sequence[Subject], title: str, height: int) -> dict[str, Any]:
    """A figure that says why the ticked runs have no spectrum; it is less high if none will come."""
    if not all_:
        return empty(_FIRST, title, height)
    if any(subject.shown.run.alive() or subject.shown.run.state() == "queued" for subject in all_):
        return empty("The first spectrum comes soon after training begins.", title, height)
    return empty("It ended before its first spectrum was taken.", title, 140)


def directions_view(cache: SpectrumCache, subject: Subject | None, module: str) -> View:
    """One module's update, built up direction by direction."""
    if subject is None:
        return empty(_FIRST, DIRECTIONS, 250), ""
    try:
        U, values, Vt = cache.directions(subject.shown.run, module)
    except PlaygroundError as error:
        return empty("Not shown.", DIRECTIONS, 250), f"Not shown: {error}"
    return plots.directions_figure(U, values, Vt), plots.describe_directions(values)


def _used(values: np.ndarray) -> int:
    return int(np.sum(values > 1e-6 * values[0])) if len(values) and values[0] > 0 else 0


def _noise(cache: SpectrumCache, subject: Subject, module: str, values: np.ndarray) -> tuple[float, str]:
    """(Marchenko–Pastur edge of a dense update, a sentence on the directions above it); (0, "") for factors, which have
    no such edge."""
    if not subject.frames.exact or values[0] <= 0:
        return 0.0, ""
    try:
        update = cache.update(subject.shown.run, module)
    except PlaygroundError:
        return 0.0, ""
    if update.factored or len(update.shape) != 2:
        return 0.0, ""
    rows, columns = update.shape
    norm, short = subject.frames.frobenius[-1][module], min(rows, columns)
    count, edge = base_alignment.above_noise(values, (rows, columns), norm)
    if edge <= 0:
        return 0.0, ""
    least = "at least " if count == len(values) < short else ""
    share = float(energy_captured(values, norm)[count - 1]) if count else 0.0
    return edge, (
        f"How low-rank is it? {least.capitalize()}{count} of its {counted(short, 'direction')} "
        f"{'stands' if count == 1 else 'stand'} above the edge of noise (Marchenko–Pastur, {significant(edge)}) and "
        f"hold {percent(share)} of its energy."
    )


def pair_views(
    cache: SpectrumCache, pair: Sequence[Subject], module: str, side: Side, factor: bool
) -> tuple[View, View]:
    """The views of two adapters: the similarity φ(i, j), and φ(k, k) beside chance."""
    titles = "Shared directions φ(i, j)", "How much they have in common"
    if len(pair) < 2:
        words = "Tick two runs to lay their directions side by side."
        return (empty(words, titles[0], 360), words), (empty("", titles[1], 360), "")
    one, two = pair[0], pair[1]
    try:
        updates = [cache.update(subject.shown.run, module) for subject in (one, two)]
        found = compare(updates[0], updates[1], side, "factor" if factor else "update")
    except PlaygroundError as error:
        words = f"Not shown: {error}"
        return (empty("Cannot be compared.", titles[0], 360), words), (empty("", titles[1], 360), "")
    square = plots.square_figure(found.similarity, (one.label, one.colour), (two.label, two.colour), module=module)
    overlap = plots.overlap_figure(found.similarity, found.chance, one.colour)
    words = plots.describe_similarity(found.similarity, found.chance, found.angles.tolist(), one.label, two.label)
    shown = ", ".join(f"{angle:.0f}°" for angle in found.angles[:8])
    return (square, words), (overlap, f"Angles between their directions, smallest first: {shown}.")


def base_views(
    cache: SpectrumCache, subject: Subject | None, module: str, k: int, epsilon: float, side: str
) -> list[View]:
    """The views of an update beside its base: amplification, alignment, intruders."""
    titles = ["How much of W lies where ΔW acts", "Does ΔW follow W?", "Intruders, new to W"]
    if subject is None:
        return [(empty(_FIRST, title, 340), "") for title in titles]
    run = subject.shown.run
    try:
        strength, cosines, found = cache.beside(run, module, side)
    except PlaygroundError as error:
        return [(empty("Not shown.", title, 340), f"Not shown: {error}" * (title is titles[0])) for title in titles]
    bars = [("ΔW", strength.by_update), ("W itself", strength.by_base), ("random", strength.by_random)]
    closest = found.cosines[: max(1, k)].tolist()
    rows, columns = cache.update(run, module).shape
    floor = base_alignment.random_floor(rows if side == "left" else columns, cosines.shape[1])[0]
    return [
        (
            plots.amplification_figure(bars, subject.colour),
            plots.describe_amplification(
                strength.by_update, strength.by_base, strength.by_random, strength.update_norm, strength.rank
            ),
        ),
        (plots.alignment_figure(cosines, module=module), plots.describe_alignment(cosines, floor)),
        (
            plots.intruder_figure(closest, epsilon, (found.floor, found.floor_high), subject.colour, module=module),
            plots.describe_intruders(closest, epsilon, found.floor),
        ),
    ]


def make_cut(mode: str, k: int, first: int, last: int, strength: float) -> Truncation:
    """The cut that the controls describe. Raises ConfigError."""
    return Truncation(mode, int(k), int(first), max(int(first), int(last)), float(strength))  # type: ignore[arg-type]


def cut_view(subject: Subject | None, cut: Truncation) -> View:
    """Energy over the number of directions kept, summed over all modules, with the cut's range shaded."""
    if subject is None or not subject.frames.values:
        return empty(_FIRST, "Energy kept by the first k directions"), _FIRST
    spectra = subject.frames.values[-1]
    rank = longest(subject)
    shares = [energy_kept(spectra, Truncation("top", k=k)) for k in range(1, min(rank, 64) + 1)]
    kept = cut.kept(rank)
    bounds = (kept.start + 1, kept.stop) if kept.stop > kept.start else None
    figure = plots.energy_figure([(subject.label, subject.colour, shares)], bounds)
    words = f"Kept: {cut.describe()} of every module, {percent(energy_kept(spectra, cut))} of the update's energy."
    if cut.strength == 0 or bounds is None:
        words += " Nothing is left, so the answer is the base's."
    elif cut.mode == "all" and cut.strength == 1:
        words += " This is the untouched adapter."
    return figure, words


def longest(subject: Subject) -> int:
    """The largest number of directions of any module in the newest spectra."""
    spectra = subject.frames.values[-1].values() if subject.frames.values else []
    return max((_used(values) for values in spectra), default=0)


# ------------------------------------------------------------------------------------------------------- numbers


def numbers(all_: Sequence[Subject]) -> list[dict[str, Any]]:
    """One record for each run and module: names, ranks, norms and singular values of the newest spectra."""
    rows = []
    for subject in all_:
        index = subject.frames.at(None)
        if index < 0:
            continue
        for module, values in subject.frames.values[index].items():
            norm = subject.frames.frobenius[index][module]
            exact = module not in subject.frames.errors
            rows.append(
                {
                    "run": subject.shown.run.id,
                    "label": subject.label,
                    "module": module,
                    "step": subject.frames.steps[index],
                    "rank_budget": subject.rank,
                    "effective_rank": effective_rank(values),
                    "stable_rank": stable_rank(values, None if exact else norm),
                    "energy_rank_90": energy_rank(values, 0.9, None if exact else norm),
                    "frobenius": norm,
                    "sigma_1": float(values[0]) if len(values) else 0.0,
                    "error": subject.frames.errors.get(module, 0.0),
                    "singular_values": [float(v) for v in values],
                }
            )
    return rows


def as_json(rows: Sequence[dict[str, Any]]) -> str:
    """The records as JSON."""
    return json.dumps(list(rows), ensure_ascii=False, indent=1, allow_nan=False)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The records as CSV, with a column for each singular value. Text that a spreadsheet would run as a formula is
    quoted."""
    out = io.StringIO()
    width = max((len(row["singular_values"]) for row in rows), default=0)
    plain = [key for key in (rows[0] if rows else {}) if key != "singular_values"]
    writer = csv.writer(out)
    writer.writerow([*plain, *(f"sigma_{i}" for i in range(1, width + 1))])
    for row in rows:
        writer.writerow([*(_cell(row[key]) for key in plain), *(f"{value:.9g}" for value in row["singular_values"])])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return f"{value:.9g}" if isinstance(value, float) else value


def as_html(views: Sequence[View], title: str) -> str:
    """The figures with their sentences as one HTML page that needs no network, with zoom and hover."""
    import html

    from plotly.offline import get_plotlyjs

    parts = []
    for number, (figure, sentence) in enumerate(views):
        data = json.dumps([figure["data"], figure["layout"], figure["config"]], allow_nan=False).replace("<", "\\u003c")
        parts.append(
            f'<figure><div id="p{number}"></div><figcaption>{html.escape(sentence)}</figcaption></figure>'
            f'<script>Plotly.newPlot("p{number}", ...{data})</script>'
        )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "figure{margin:0 0 2.5rem}figcaption{color:#4b5b64}</style>"
        f"<h1>{html.escape(title)}</h1><script>{get_plotlyjs()}</script>{''.join(parts)}</html>"
    )


def module_choices(all_: Sequence[Subject]) -> list[tuple[str, str]]:
    """(short name, name) of every module that any shown run changes, in the model's order."""
    names = dict.fromkeys(name for subject in all_ for name in subject.frames.modules)
    return [(short_name(name), name) for name in names]
