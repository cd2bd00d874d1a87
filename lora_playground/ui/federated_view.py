"""The texts of the tab Federated: the state of runs and rounds from their events, the table, the strategies' cards.

It knows no Gradio and starts nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_playground.errors import PlaygroundError
from lora_playground.federated.config import client_ranks
from lora_playground.federated.strategies import STRATEGIES
from lora_playground.plots import RUN_COLOURS, run_colour
from lora_playground.ui import cards
from lora_playground.ui.shell import Shell
from lora_playground.ui.words import PHASES, duration, escape, percent, significant, size


@dataclass
class Progress:
    """The progress of one federated run, for the tab.

    Attributes:
        label: its strategy. name: its name in the list of runs.
        rounds, partition: its events. planned: rounds. now: the client that trains, or ''.
        result: its score on all test rows, None before they are scored.
    """

    label: str
    name: str
    colour: str
    state: str
    rounds: list[dict[str, Any]] = field(default_factory=list)
    partition: dict[str, Any] = field(default_factory=dict)
    planned: int = 0
    seconds: float = 0.0
    now: str = ""
    resumable: bool = False
    problem: str = ""
    result: float | None = None
    messages: list[str] = field(default_factory=list)

    @property
    def active(self) -> bool:
        """Whether it is queued or running."""
        return self.state not in ("done", "failed", "cancelled", "interrupted")

    @property
    def doing(self) -> str:
        """Its state in words; while it trains, which client does."""
        if self.state == "training" and self.now:
            return f"{self.now} trains"
        return PHASES.get(self.state, self.state)


def read_progress(shell: Shell, identity: str, colour: str) -> Progress | None:
    """The progress of a run; None if it was deleted."""
    try:
        run = shell.store.get(identity)
        job = shell.supervisor.job(identity)
        config = run.config()
    except PlaygroundError:
        return None
    name = config.federated.strategy if config.federated else ""
    label = STRATEGIES[name].label if name in STRATEGIES else job.label
    ranks = set(client_ranks(config)) if config.federated else set()
    if len(ranks) > 1:
        label += f", ranks {min(ranks)} to {max(ranks)}"
    progress = Progress(label, run.label, colour, job.state, planned=config.federated.rounds if config.federated else 0)
    progress.problem = job.error_message or ""
    progress.result = ((run.result() or {}).get("score") or {}).get("adapted") if job.state == "done" else None
    progress.resumable = bool(getattr(job, "resumable", False))
    recorded = shell.store.progress(run)
    progress.rounds, progress.partition, progress.now, progress.seconds = (
        recorded.rounds, recorded.partition, recorded.client, recorded.clock
    )  # fmt: skip
    progress.messages = [text for level, text in recorded.messages if level == "warning"]
    return progress


def told_apart(found: Sequence[Progress]) -> None:
    """Gives runs of one strategy, which share a label, the names that they have in the list of runs."""
    many = Counter(progress.label for progress in found)
    for progress in found:
        if many[progress.label] > 1:
            progress.label = progress.name


def colours(compared: Sequence[str], ticked: Sequence[str]) -> dict[str, str]:
    """{run: colour}. Ticked runs have the same colour as in other tabs; the others get colours that no slot has."""
    slots = {identity: slot for slot, identity in enumerate(ticked) if identity}
    free = iter([n for n in range(len(RUN_COLOURS)) if n not in slots.values()] or [0])
    found: dict[str, str] = {}
    for number, identity in enumerate(compared):
        found[identity] = run_colour(slots[identity] if identity in slots else next(free, number))
    return found


def describe_strategies(names: Sequence[str]) -> str:
    """What each of these strategies does, sends, and whether it is exact."""
    if not names:
        return cards.warning("Tick at least one strategy.")
    items = []
    for name in names:
        strategy = STRATEGIES[name]
        card = strategy.card
        mixed = "yes" if strategy.heterogeneous else f"no, {strategy.why_equal}"
        note = f"<dt>Note</dt><dd>{escape(card.notes)}</dd>" if card.notes else ""
        items.append(
            # In Markdown a block of HTML ends at an empty line, so the equation between two of them is rendered.
            f'<div class="lp-method"><h3>{escape(strategy.label)}</h3><p>{escape(card.sentence)}</p></div>\n\n'
            f"$$\n{card.equation}\n$$\n\n"
            f'<div class="lp-method"><dl>'
            f"<dt>Up</dt><dd>{escape(card.up)}</dd><dt>Down</dt><dd>{escape(card.down)}</dd>"
            f"<dt>Exact</dt><dd>{escape(card.exact)}</dd><dt>Unequal ranks</dt><dd>{escape(mixed)}</dd>"
            f'<dt>Paper</dt><dd><a href="{escape(card.url)}" target="_blank" rel="noopener noreferrer">'
            f"{escape(card.paper)}</a></dd>{note}</dl></div>"
        )
    return "\n\n".join(items)


def results_table(found: Sequence[Progress]) -> str:
    """One line for each run: state, score, loss, error, bytes sent, time."""
    if not found:
        return (
            '<section class="lp-card lp-idle"><h2>Press Start, and this happens</h2><ol>'
            "<li>Every strategy that you ticked becomes a run of its own, on the same clients and the same rows.</li>"
            "<li>In each round every client trains a little on its own rows and sends its factors, nothing else.</li>"
            "<li>The server puts them together. You watch score and loss, how far its update is from the mean of the "
            "clients' updates, and how much travelled.</li></ol></section>"
        )
    head = ("strategy", "round", "score", "loss", "aggregation error", "up", "down", "time")
    lines = "".join(_line(progress) for progress in found)
    cells = "".join(f'<th scope="col">{name.replace("aggregation ", "aggregation<br>")}</th>' for name in head)
    said = "".join(cards.error(f"{p.label}: {p.problem}") for p in found if p.problem)
    said += "".join(cards.warning(f"{p.label}: {text}") for p in found for text in p.messages[-3:])
    return (
        f'<div class="lp-scroll" tabindex="0" role="region" aria-label="Strategies compared">'
        f'<table class="lp-runs-table"><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>{said}'
    )


def _line(progress: Progress) -> str:
    last = progress.rounds[-1] if progress.rounds else {}
    score = last.get("score") if progress.result is None else progress.result
    error, sent = last.get("error"), last.get("bytes", {})
    now = "" if progress.state == "done" else f'<br><span class="lp-note">({escape(progress.doing)})</span>'
    cells = (
        "–" if score is None else percent(score),
        "–" if last.get("loss") is None else significant(last["loss"]),
        "–" if error is None else "exact" if error < 1e-5 else percent(error),
        size(sent.get("up_total", 0)),
        size(sent.get("down_total", 0)),
        duration(progress.seconds),
    )
    name = f'<span class="lp-key"><i style="background:{progress.colour}"></i>{escape(progress.label)}</span>'
    played = f"<td>{last.get('round', 0)} of {progress.planned}{now}</td>"
    return f'<tr><th scope="row">{name}</th>{played}{"".join(f"<td>{escape(c)}</td>" for c in cells)}</tr>'


def note(sentence: str) -> str:
    """A sentence under a plot, which screen readers announce when it changes."""
    return f'<p class="lp-note" aria-live="polite">{escape(sentence)}</p>' if sentence else ""
