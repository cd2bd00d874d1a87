"""The list of runs and the header, as HTML. It starts nothing and reads no file."""

from __future__ import annotations

from dataclasses import dataclass

from lora_playground.machine.device import Device
from lora_playground.ui import pictures
from lora_playground.ui.words import PHASES, escape, percent, rough, size

LISTED = 24
"""How many of the newest runs are listed; ticked runs are always listed."""

_LOGO = (
    '<svg viewBox="0 0 34 26" aria-hidden="true"><rect x="0" y="2" width="22" height="22" rx="2" fill="#8fa6ab"/>'
    '<rect x="25" y="2" width="3.4" height="22" rx="1" fill="#e69f00"/>'
    '<rect x="30.4" y="2" width="3.4" height="22" rx="1" fill="#56b4e9" transform="rotate(0)"/></svg>'
)


@dataclass(frozen=True)
class Entry:
    """One entry of the list: a run, or a sweep, whose runs are not listed separately.

    Attributes:
        sweep: whether it is a sweep. Then `part` says how many of its runs have ended, and `score` is the best of them.
        score: of the adapted model, 0 to 1; None if there is none.
        part: steps done and planned, such as 20/40; '' unless it is training.
        losses: mean losses, for the small curve beside the name.
        owner, person: the owner's identity ('' for none) and name.
    """

    id: str
    label: str
    state: str
    score: float | None = None
    part: str = ""
    losses: tuple[float, ...] = ()
    sweep: bool = False
    owner: str = ""
    person: str = ""


def line(entry: Entry, with_person: bool = False) -> str:
    """An entry as HTML. The page's script marks it as ticked or in view, and sets the colour of its slot."""
    identity, label = escape(entry.id), escape(entry.label)
    who = f'<span class="who">{escape(entry.person)}</span>' if with_person and entry.person else ""
    more = (
        f'<button class="lp-more" data-act="menu" data-id="{identity}"{" data-sweep=1" if entry.sweep else ""} '
        f'aria-haspopup="menu" aria-label="More about {label}">⋯</button>'
    )
    if entry.sweep:
        best = f", best <b>{percent(entry.score)}</b>" if entry.score is not None else ""
        state = "" if entry.state in ("running", "done") else f", {escape(entry.state)}"
        return (
            f'<span class="lp-stack" aria-hidden="true"></span><button class="lp-open" data-act="sweep" '
            f'data-id="{identity}"><span class="n">{label}</span><span class="s"><span>{escape(entry.part)} runs{state}'
            f"{best}</span>{who}</span></button>{more}"
        )
    status = escape(PHASES.get(entry.state, entry.state))
    if entry.state == "done":
        status = f"score <b>{percent(entry.score)}</b>" if entry.score is not None else "done"
    elif entry.part:
        status = f'step <span class="at">{escape(entry.part)}</span>'
    status = {"queued": "waiting", "evaluating": "testing", "loading": "loading"}.get(entry.state, status)
    tone = ' class="bad"' if entry.state == "failed" else ""
    return (
        f'<button class="lp-tick" role="checkbox" aria-checked="false" '
        f'aria-label="Show {label} in Spectrum, Chat and Compare" data-act="tick" data-id="{identity}"><i></i></button>'
        f'<button class="lp-open" data-act="open" data-id="{identity}"><span class="n">{label}</span>'
        f'<span class="s"><span{tone}>{status}</span>{who}{pictures.spark(entry.losses)}</span></button>'
        f"{more}"
    )


def header(base: str, verified: bool | None, device: Device) -> str:
    """The header: name, base model with its verification mark, device with its memory, the queue (filled by the
    page)."""
    mark = ""
    if verified is not None:
        mark = (
            '<span class="lp-verified" title="It answers as before any adapter was attached">✓'
            '<span class="word"> verified</span></span>'
            if verified
            else '<span class="lp-failed">✗ not verified</span>'
        )
    part = 100 * device.used / device.total if device.total else 0
    memory = (
        f'<span class="lp-gauge" role="img" aria-label="memory {part:.0f}% used">'
        f'<i style="width:{part:.0f}%"></i></span>'
        f"{device.used / 1e9:.0f} of {size(device.total)}"
        if device.total
        else ""
    )
    return (
        f'<header class="lp-header"><h1 class="lp-brand">{_LOGO}LoRA Playground</h1>'
        '<button class="lp-drawer" data-act="drawer" aria-controls="lp-side">☰ Runs<b></b></button>'
        '<div class="lp-facts"><span class="lp-fact"><span class="k">base</span> '
        f'<span class="lp-base" data-own="{escape(base)}">{escape(base)}</span> {mark}</span>'
        f'<span class="lp-fact lp-device"><span class="k">device</span> {escape(device.name)} {memory}</span>'
        f'<span class="lp-fact"><span class="k">queue</span> <span class="lp-queue"></span></span>'
        '<button class="lp-link-here" data-act="link" title="A link to what this page shows">Copy link</button>'
        '<button class="lp-theme" data-act="theme" aria-label="Light or dark page" title="Light or dark">☾</button>'
        "</div></header>"
    )


def queue_words(running: int, waiting: int, mine: int | None, eta: float | None, slots: int = 1) -> str:
    """The queue in a few words: 'free, 2 at once', '1 running, 3 waiting', 'you are next'."""
    if mine is not None:
        when = f", in {rough(eta)}" if eta else ""
        return ("you are next" if mine <= 1 else f"you are number {mine}") + when
    most = f", {slots} at once" if slots > 1 and running < slots else ""
    if not running and not waiting:
        return f"free{most}"
    return f"{running} running" + (f", {waiting} waiting" if waiting else "") + most
