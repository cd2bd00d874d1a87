"""The tab Compare: finished runs in a sortable table, their losses overlaid, what gain costs, how options differ.

It reads run folders and draws; it starts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from lora_playground import plots
from lora_playground.analysis.adapter_map import plane
from lora_playground.errors import PlaygroundError
from lora_playground.evaluation import interval
from lora_playground.runs import Run
from lora_playground.service.difference import Side, describe, flat
from lora_playground.ui.cards import skills_kept
from lora_playground.ui.compare_updates import Alike, Alikeness
from lora_playground.ui.shell import LATEST, QUIET, SETS, Shell, actions, draw, heading, note, picture, toggled
from lora_playground.ui.words import count, duration, escape, percent, size
from lora_playground.wording import counted

LISTED = 60
QUIETLY = "#8b979b"
"""Colour of a run that is not ticked."""

COLUMNS: tuple[tuple[str, str, bool], ...] = (
    ("label", "Run", False),
    ("method", "Method", False),
    ("rank", "r", True),
    ("parameters", "Parameters", True),
    ("base_score", "Base's score", True),
    ("score", "Score", True),
    ("kept", "Base skills kept", True),
    ("loss", "Val. loss", True),
    ("seconds", "Training", True),
    ("memory", "Peak memory", True),
)
"""(key, heading, whether it is a number)."""


@dataclass
class Line:
    """One run in the table; what is not known is None.

    Attributes:
        score, base_score: share of the task solved, 0 to 1. sure: ends of the score's interval at 95%.
        gain: score above the base's; gain_sure: ends of its interval.
        kept: share of the base's own skills that is left.
        steps: how many were done. colour: '' if the run is not ticked.
    """

    run: str
    label: str
    colour: str
    method: str
    rank: int | None = None
    parameters: int | None = None
    base_score: float | None = None
    score: float | None = None
    sure: tuple[float, float] | None = None
    gain_sure: tuple[float, float] | None = None
    kept: float | None = None
    steps: int | None = None
    loss: float | None = None
    seconds: float | None = None
    memory: int | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def gain(self) -> float | None:
        """Score above the base's."""
        return None if self.score is None or self.base_score is None else self.score - self.base_score


def read_line(run: Run, colour: str) -> Line | None:
    """What the table says of a run; None for one that cannot be read."""
    try:
        config = run.config()
    except PlaygroundError:
        return None
    result = run.result() or {}
    score, forgetting = result.get("score") or {}, result.get("forgetting")
    kept = skills_kept(forgetting) if forgetting else None
    return Line(
        run=run.id,
        label=run.label,
        colour=colour,
        method=config.federated.strategy if config.federated is not None else config.variant.name,
        rank=getattr(config.variant, "rank", None),
        parameters=result.get("trainable_parameters"),
        base_score=score.get("base"),
        score=score.get("adapted"),
        sure=interval(score["adapted"], score["n"]) if score.get("n") else None,
        gain_sure=(score["gain"]["low"], score["gain"]["high"]) if "gain" in score else None,
        kept=kept,
        steps=result.get("steps"),
        loss=(result.get("validation_loss") or {}).get("adapted"),
        seconds=(result.get("seconds") or {}).get("training"),
        memory=result.get("peak_memory_bytes"),
        config=config.model_dump(mode="json"),
    )


def sort(lines: Sequence[Line], by: str, falling: bool) -> list[Line]:
    """Lines in the order of a column; runs without that number come last either way."""
    known = [line for line in lines if getattr(line, by) is not None]
    rest = [line for line in lines if getattr(line, by) is None]
    return sorted(known, key=lambda line: getattr(line, by), reverse=falling) + rest


def cell(line: Line, key: str) -> str:
    """A value in the form in which it is shown."""
    value = getattr(line, key)
    if value is None:
        return "–"
    if key == "score" and line.sure is not None:
        return f"{percent(value)} <small>{percent(line.sure[0])} to {percent(line.sure[1])}</small>"
    if key in ("score", "base_score", "kept"):
        return percent(value)
    if key == "parameters":
        return count(value)
    if key == "seconds":
        return duration(value)
    if key == "memory":
        return size(value)
    return f"{value:.3f}" if isinstance(value, float) else escape(value)


def table(lines: Sequence[Line], by: str, falling: bool) -> str:
    """The table as HTML; a click on a heading sorts, on a box ticks."""
    if not lines:
        return (
            '<div class="lp-card lp-idle"><h2>Nothing to compare yet</h2><p>Train two runs that differ in one thing '
            "(rank, method, data): here they stand side by side with what each gained and what it cost.</p></div>"
        )
    heads = []
    for key, title, number in COLUMNS:
        sorted_ = ' aria-sort="descending"' if key == by and falling else ' aria-sort="ascending"' if key == by else ""
        arrow = (" ▾" if falling else " ▴") if key == by else ""
        heads.append(
            f'<th scope="col"{sorted_}{" class=number" * number}><button data-act="sort" data-id="{key}">{title}{arrow}'
            "</button></th>"
        )
    rows = []
    for line in lines:
        on = bool(line.colour)
        box = (
            f'<button class="lp-tick" role="checkbox" aria-checked="{"true" if on else "false"}" data-act="tick" '
            f'data-id="{escape(line.run)}" aria-label="Show {escape(line.label)}" '
            f'style="--run:{line.colour or QUIETLY}"><i></i></button>'
        )
        cells = "".join(f"<td{' class=number' * number}>{cell(line, key)}</td>" for key, _, number in COLUMNS[1:])
        rows.append(f'<tr><th scope="row"><span class="lp-run-cell">{box}{escape(line.label)}</span></th>{cells}</tr>')
    return (
        f'<div class="lp-scroll" tabindex="0" role="region" aria-label="Runs"><table class="lp-runs-table">'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def points(lines: Sequence[Line], x: str, y: str) -> list[plots.Point]:
    """Runs that have both numbers, with the interval of y (the score or the gain) where it is known."""
    found = []
    for line in lines:
        across, up = getattr(line, x), getattr(line, y)
        ends = (line.gain_sure if y == "gain" else line.sure) or (math.nan, math.nan)
        if across is not None and up is not None:
            found.append(plots.Point(line.label, line.colour or QUIETLY, float(across), float(up), *ends))
    return found


def remark(lines: Sequence[Line]) -> str:
    """A warning if the ticked runs are not comparable: other budgets, datasets or base models. '' if they are."""
    ticked = [line for line in lines if line.colour]
    if len(ticked) < 2:
        return ""
    ended = [line for line in ticked if line.steps is not None]  # the others' steps are not known yet
    tokens = [(line.config.get("training") or {}).get("batch_tokens") for line in ended]
    unlike = []
    if len({(line.steps, a) for line, a in zip(ended, tokens)}) > 1:
        each = [counted(line.steps or 0, "step") for line in ended]
        size_ = [f" of {a} tokens" if len(set(tokens)) > 1 else "" for a in tokens]
        names = ", ".join(
            f"{line.label.removesuffix(f' · {steps}')}: {steps}{of}" for line, steps, of in zip(ended, each, size_)
        )
        unlike.append(f"had unlike budgets ({names})")
    for path, words in (("data.dataset", "datasets"), ("model.source", "base models")):
        if len({flat(line.config).get(path) for line in ticked}) > 1:
            unlike.append(f"differ in their {words}")
    if not unlike:
        return ""
    return f'<p class="lp-warning">Compare with care: these runs {escape(" and ".join(unlike))}.</p>'


def differences(lines: Sequence[Line]) -> str:
    """The options in which the ticked runs differ, as a table."""
    ticked = [line for line in lines if line.colour]
    if len(ticked) < 2:
        return '<p class="lp-note">Tick two runs or more to see in which options they differ.</p>'
    configs = [flat(line.config) for line in ticked]
    keys = dict.fromkeys(key for one in configs for key in one if key != "title")
    differing = [key for key in keys if len({repr(one.get(key, ...)) for one in configs}) > 1]
    if not differing:
        return '<p class="lp-note">They were made with the same options.</p>'
    heads = "".join(
        f'<th scope="col"><span class="lp-key"><i style="background:{line.colour}"></i>{escape(line.label)}</span></th>'
        for line in ticked
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(option_name(key))}</th>'
        + "".join(f"<td>{escape(_shown(one[key]) if key in one else '–')}</td>" for one in configs)
        + "</tr>"
        for key in differing
    )
    return (
        '<div class="lp-scroll" tabindex="0" role="region" aria-label="Options that differ"><table '
        f'class="lp-runs-table lp-options">'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def base_of(line: Line) -> str:
    """The base model of a run, as its config names it."""
    return str((line.config.get("model") or {}).get("source", ""))


_NAMES = {
    "variant.name": "Method", "variant.rank": "Rank r", "variant.alpha": "Alpha", "data.dataset": "Dataset",
    "model.source": "Base model", "training.batch_tokens": "Tokens a step", "training.seed": "Seed",
}  # fmt: skip


def option_name(path: str) -> str:
    """An option as the forms name it: 'training.learning_rate' is 'Learning rate'."""
    return _NAMES.get(path) or path.rpartition(".")[2].replace("_", " ").capitalize()


def _shown(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


class CompareTab:
    """The tab; `build` makes it where it is called."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def build(self, tab: gr.Tab) -> None:
        """Makes the parts inside `tab` and connects them."""
        self.table = actions("", elem_id="lp-compare-table")
        self.remark = gr.HTML("", apply_default_css=False, elem_id="lp-compare-remark")
        with gr.Column(elem_id="lp-compare-body") as self.body:
            with gr.Row(elem_classes="lp-plots", equal_height=False):
                with gr.Column(min_width=300):
                    self.gain, self.gain_words = picture("lp-compare-gain")
                with gr.Column(min_width=300):
                    self.cost, self.cost_words = picture("lp-compare-cost")
            with gr.Row(elem_classes="lp-plots", equal_height=False):
                with gr.Column(min_width=300):
                    self.loss, self.loss_words = picture("lp-compare-loss")
                with gr.Column(min_width=300):
                    gr.HTML('<h2 class="lp-section">What differs <small>options of the ticked runs</small></h2>',
                            apply_default_css=False)  # fmt: skip
                    self.options = gr.HTML("", apply_default_css=False, elem_id="lp-compare-options")
            with gr.Row(elem_classes="lp-plots", equal_height=False):
                with gr.Column(min_width=300):
                    self.map, self.map_words = picture("lp-compare-map")
                with gr.Column(min_width=300):
                    heading("Two runs in words", "the first two that are ticked")
                    self.two = gr.HTML("", apply_default_css=False, elem_id="lp-compare-two")
        self.alikeness = Alikeness()
        self.order = gr.State(["score", True])
        self._connect(tab)

    def _connect(self, tab: gr.Tab) -> None:
        ticked = self._shell.ticked
        given = [ticked, self.order]
        shown = [
            self.table, self.body, self.gain, self.gain_words, self.cost, self.cost_words, self.loss, self.loss_words,
            self.options, self.remark,
        ]  # fmt: skip
        gr.on([tab.select, ticked.change], self.show, given, shown, **LATEST)
        gr.on([tab.select, ticked.change], self.alike, ticked, [self.map, self.map_words, self.two], **LATEST)
        self.table.act(self.act, given, [ticked, self.order], **SETS).then(
            lambda t, order: self._table(t, order), given, self.table, **QUIET
        )

    def lines(self, ticked: Sequence[str]) -> list[Line]:
        """The newest runs that have ended, and all ticked ones."""
        colours = {one.run.id: one.colour for one in self._shell.shown(ticked)}
        found: list[Line] = []
        for run in self._shell.store.list():
            if run.hidden:
                continue
            if run.id not in colours and (len(found) >= LISTED or not run.result_path.is_file()):
                continue
            line = read_line(run, colours.get(run.id, ""))
            if line is not None:
                found.append(line)
        return found

    def _table(self, ticked: list[str], order: list[Any]) -> str:
        return table(sort(self.lines(ticked), order[0], bool(order[1])), order[0], bool(order[1]))

    def show(self, ticked: list[str], order: list[Any]) -> list[Any]:
        """Everything for the ticked runs."""
        lines = self.lines(ticked)
        marked = [line for line in lines if line.colour]
        drawn = marked or lines
        gains = points(drawn, "kept", "gain")
        costs = points(drawn, "parameters", "score")
        gain = plots.scatter_figure(
            gains, "Gain against base skills kept", "base skills kept", "gain over the base", kept=True
        )
        cost = plots.scatter_figure(costs, "Score against size", "trained parameters", "score", log_x=True)
        progress = self._shell.store.progress
        series = [(one.run.label, one.colour, progress(one.run)) for one in self._shell.shown(ticked)]
        losses = [f"{label}: {plots.describe_loss(one)}" for label, _, one in series if one.steps]
        return [
            table(sort(lines, order[0], bool(order[1])), order[0], bool(order[1])), gr.update(visible=bool(lines)),
            draw(gain), note(plots.describe_scatter(gains, "gain", "base skills kept", kept=True)),
            draw(cost), note(plots.describe_scatter(costs, "score", "size")),
            draw(plots.losses_figure(series)), "".join(map(note, losses or ["Tick runs to overlay their losses."])),
            differences(lines), remark(lines),
        ]  # fmt: skip

    def alike(self, ticked: list[str]) -> list[Any]:
        """The adapter map of the runs on one base model, and the first two ticked ones in words."""
        lines = self.lines(ticked)
        marked = sorted((line for line in lines if line.colour), key=lambda line: ticked.index(line.run))
        source = base_of((marked or lines)[0]) if lines else ""
        listed = {line.run: line for line in [*marked, *lines] if base_of(line) == source}
        found = self.alikeness.of([self._shell.store.get(run) for run in listed])
        shown = [listed[run] for run in found.runs]
        places, share = plane(found.similar)
        names, colours = [line.label for line in shown], [line.colour or QUIETLY for line in shown]
        figure = plots.adapter_map_figure(names, colours, places, share, [bool(line.colour) for line in shown])
        words = plots.describe_adapter_map(names, found.similar, len({line.method for line in shown}))
        return [draw(figure), note(words), self._two(marked[:2], found)]

    def _two(self, pair: Sequence[Line], found: Alike) -> str:
        if len(pair) < 2:
            return '<p class="lp-note">Tick two runs to read how they differ, and how sure that is.</p>'
        sides = [Side(line.label, line.config, self._shell.store.get(line.run).result() or {}) for line in pair]
        both = [found.runs.index(line.run) for line in pair if line.run in found.runs]
        cosine = float(found.similar[both[0], both[1]]) if len(both) == 2 else None
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in describe(sides[0], sides[1], cosine))
        return f'<ul class="lp-two">{said}</ul>'

    def act(self, ticked: list[str], order: list[Any], event: gr.EventData) -> tuple[Any, Any]:
        """A click in the table: sort by a column (again: the other way round), or tick a run."""
        if event.act == "sort" and event.id in {key for key, _, _ in COLUMNS}:
            number = {key: number for key, _, number in COLUMNS}[event.id]
            return gr.skip(), [event.id, not order[1] if order[0] == event.id else number]
        if event.act == "tick":
            known = {run.id for run in self._shell.store.list()}
            return toggled(ticked, event.id) if event.id in known else gr.skip(), gr.skip()
        return gr.skip(), gr.skip()


def build(shell: Shell, tab: gr.Tab) -> CompareTab:
    """Makes the tab where it is called."""
    made = CompareTab(shell)
    made.build(tab)
    return made
