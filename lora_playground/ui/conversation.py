"""A conversation as plain data: its panes, its turns, the request for the next answers, and the link that repeats it.

It uses no Gradio.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from lora_playground.chat.protocol import MAX_PANES, ChatEvent, Pane
from lora_playground.config import Section, checked
from lora_playground.errors import ChatError, ConfigError
from lora_playground.ui.shell import Shown
from lora_playground.ui.words import PHASES

Conversation = dict[str, Any]
"""A conversation:
`key`: its random name. `panes`: [{run, label, colour, strength, keep}, an adapted run's also with cut, cut_words].
`turns`: [{id, a new one when the question is asked again; q, the question; ask, its settings; a, one answer for each
pane: {t: tokens as [text, KL, change of log-probability], first: index of the first token that differs, end}; note}].
`busy`, `status`, `verified`. `linked`: whether it comes from a link. `left`: whether its page has been closed."""

MAX_LINKED = 12
"""Most questions in a link."""


class Tune(Section):
    """A pane's settings in a link: strength and `keep` as in `chat.protocol.Pane`, and a cut as [lo, hi)."""

    strength: float = Field(1.0, ge=-2.0, le=2.0)
    keep: int | None = Field(None, ge=0)
    cut: tuple[int, int] | None = Field(None, strict=False)


class Asked(Section):
    """One question of a link, with all settings on which its answers depend."""

    q: str = Field(min_length=1, max_length=8_000)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    temperature: float = Field(0.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, ge=0.05, le=1.0)
    length: int = Field(96, ge=8, le=512)
    system: str = Field("", max_length=8_000)
    forced: bool = False
    tune: dict[str, Tune] = Field(default_factory=dict, max_length=16)

    def settings(self) -> dict[str, Any]:
        """All settings without the question, as plain data."""
        return self.model_dump(mode="json", exclude={"q"})

    def controls(self) -> tuple[Any, ...]:
        """The settings in the order in which `settings_of` takes them."""
        return self.system, self.temperature, self.top_p, self.length, self.seed, self.forced


def settings_of(
    system: str, temperature: float, top_p: float, length: float, seed: float | None, forced: bool
) -> dict[str, Any]:
    """The values of the page's controls under the names of `Asked`. The request checks them."""
    return {
        "system": system or "", "temperature": temperature, "top_p": top_p, "length": int(length),
        "seed": seed if seed is not None else 0, "forced": bool(forced),
    }  # fmt: skip


def tuned(value: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """A pane's strength and number of directions kept, as the page sends them. The request checks them.

    A cut that no single number describes (the weakest directions, a range, one direction) comes from the Spectrum tab.
    It stays in force until the page sends a number.
    """
    given = value if isinstance(value, dict) else {}
    found, cut = {"strength": given.get("strength", 1.0), "keep": given.get("keep")}, before.get("cut")
    if found["keep"] is None and cut and cut[0] != 0:
        found["cut"] = cut
    return found


def read_link(text: str) -> list[Asked]:
    """The questions of a link's parameter `chat`. A setting that one leaves out is that of the question before it.
    Raises ChatError."""
    try:
        entries = json.loads(text)
        if not isinstance(entries, list) or not 0 < len(entries) <= MAX_LINKED:
            raise ValueError(f"it holds 1 to {MAX_LINKED} questions")
        found: list[Asked] = []
        for entry in entries:
            if not isinstance(entry, dict):
                raise ValueError("every question is an object")
            found.append(checked(Asked, (found[-1].settings() if found else {}) | entry))
            for tune in found[-1].tune.values():
                checked(Pane, {"cut": tune.cut})
    except (ValueError, RecursionError, ConfigError) as error:
        raise ChatError(f"The conversation in this link cannot be read ({error}); ask for the link again.") from error
    return found


def pane_list(adapted: Sequence[Shown], tuning: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The base, then the adapted runs with their strength and number of directions kept."""
    panes: list[dict[str, Any]] = [{"run": "", "label": "Base model", "colour": "", "strength": 1.0, "keep": None}]
    for shown in adapted:
        tuned = tuning.get(shown.run.id, {})
        panes.append(
            {
                "run": shown.run.id,
                "label": shown.run.label,
                "colour": shown.colour,
                "strength": tuned.get("strength", 1.0),
                "keep": tuned.get("keep"),
                "cut": tuned.get("cut"),
                "cut_words": cut_words(tuned.get("cut")),
            }
        )
    return panes


def why_absent(label: str, state: str, trained: bool, resumable: bool = True) -> str:
    """Why a ticked run has no pane. `trained`: whether it has an update, so that only the number of panes is the
    reason. `resumable`: whether it can go on."""
    if trained:
        return f"“{label}” is ticked too, but no more than {MAX_PANES - 1} fit beside the base: untick another one."
    if state in ("failed", "cancelled", "interrupted"):
        ended = "failed" if state == "failed" else "was stopped"
        what = "Resume it, or untick it." if resumable else "Untick it."
        return f"“{label}” {ended} before it had learned anything that could answer here. {what}"
    return f"“{label}” is not finished yet ({PHASES.get(state, state)}): it answers here as soon as it is."


def short_names(prompts: Sequence[str], characters: int = 72) -> list[str]:
    """Prompts in one short line each, without the beginning that all of them share if it is long."""
    words = [prompt.split() for prompt in prompts]
    lines = [" ".join(one) for one in words]
    columns = list(zip(*(one[:-1] for one in words), strict=False)) if len(words) > 1 else []
    alike = next((place for place, column in enumerate(columns) if len(set(column)) > 1), len(columns))
    if alike and len(" ".join(words[0][:alike])) >= characters // 3:
        lines = [" ".join(["…", *one[alike:]]) for one in words]
    return [line if len(line) <= characters else line[: characters - 1] + "…" for line in lines]


def cut_words(cut: Sequence[int] | None) -> str:
    """What a cut [lo, hi) keeps, in a few words. Directions are counted from 1, the strongest."""
    if cut is None or (cut[0] == 0 and cut[1] > 0):
        return "all" if cut is None else f"first {cut[1]}"
    if cut[0] < 0:
        return f"last {-cut[0]}"
    if cut[1] <= cut[0]:
        return "none"
    return f"no. {cut[1]}" if cut[1] == cut[0] + 1 else f"{cut[0] + 1} to {cut[1]}"


def new_conversation(panes: list[dict[str, Any]]) -> Conversation:
    """An empty conversation."""
    return {
        "key": secrets.token_hex(12), "panes": panes, "turns": [], "busy": False, "status": "", "verified": None,
    }  # fmt: skip


def asked(conversation: Conversation, text: str) -> dict[str, Any]:
    """The part of a ChatRequest with panes and messages; each pane's history has its own answers."""
    panes, messages = [], []
    for number, pane in enumerate(conversation["panes"]):
        keep = pane["keep"]
        panes.append(
            {
                "run": pane["run"] or None,
                "strength": pane["strength"],
                "cut": pane.get("cut") or ([0, int(keep)] if keep not in (None, "") else None),
            }
        )
        history: list[dict[str, str]] = []
        for turn in conversation["turns"]:
            answer = turn["a"][number] if number < len(turn["a"]) else {}
            said = answer.get("text") or "".join(token[0] for token in answer.get("t", []))
            if said:
                history += [{"role": "user", "content": turn["q"]}, {"role": "assistant", "content": said}]
        messages.append([*history, {"role": "user", "content": text}])
    return {"panes": panes, "messages": messages}


def take(event: ChatEvent, conversation: Conversation, turn: dict[str, Any], tokens: list[list[dict[str, Any]]]) -> str:
    """Adds one event to the conversation; returns the text of an error, or ''."""
    if event.type in ("status", "restarted"):
        conversation["status"] = event.text
        if event.type == "restarted":
            turn["note"] = event.text
            for pane, mine in zip(turn["a"], tokens):
                pane.update(t=[], first=None, end="")
                mine.clear()
    elif event.type == "start":
        conversation["status"] = ""
        if event.verified is not None:
            conversation["verified"] = event.verified.ok
        for answer, start in zip(turn["a"], event.panes or []):
            answer["raw"] = start.prompt
            turn["dropped"] = max(turn["dropped"], start.dropped)
    elif event.type == "tokens" and event.pane is not None:
        for token in event.tokens or []:
            _add(token.model_dump(), event.pane, turn, tokens)
    elif event.type == "pane_end" and event.pane is not None and event.end is not None:
        turn["a"][event.pane].update(
            end=event.end.reason, first=event.end.first_difference, mean=event.end.mean_kl, text=event.end.text
        )
    elif event.type == "end":
        turn["speed"] = event.tokens_per_second
    elif event.type == "error":
        return event.text
    return ""


def _add(token: dict[str, Any], pane: int, turn: dict[str, Any], tokens: list[list[dict[str, Any]]]) -> None:
    number = len(tokens[pane])
    tokens[pane].append(token)
    answer = turn["a"][pane]
    shown = token["choice"] if token.get("choice") is not None else token["text"]
    kl, change = token.get("kl"), None
    if token.get("logprob") is not None and token.get("base_logprob") is not None:
        change = round(token["logprob"] - token["base_logprob"], 3)
    answer["t"].append([shown, None if kl is None else round(kl, 3), change])
    if answer["first"] is None and pane > 0 and number < len(tokens[0]) and tokens[0][number]["id"] != token["id"]:
        answer["first"] = number
