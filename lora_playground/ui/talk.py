"""A conversation as plain data: its panes, its turns, the request that asks for the next one. No Gradio here."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from lora_playground.ui.shell import Shown

Talk = dict[str, Any]
"""`key` (a name nobody guesses), `panes` (run, label, colour, strength, keep), `turns` (id, another for another answer;
q; a: one answer a pane with tokens `t` as [text, KL], `first` difference, `end`), `busy`, `status`, `verified`."""


def pane_list(adapted: Sequence[Shown], tuning: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The base, then the adapted runs with their strength and number of directions kept."""
    panes: list[dict[str, Any]] = [{"run": "", "label": "Base model", "colour": "", "strength": 1.0, "keep": None}]
    for shown in adapted:
        tuned = tuning.get(shown.run.id, {})
        panes.append(
            {
                "run": shown.run.id,
                "label": shown.run.config().label,
                "colour": shown.colour,
                "strength": tuned.get("strength", 1.0),
                "keep": tuned.get("keep"),
                "cut": tuned.get("cut"),
                "cut_words": cut_words(tuned.get("cut")),
            }
        )
    return panes


def cut_words(cut: Sequence[int] | None) -> str:
    """What a cut keeps, in two words: directions count from 1, the strongest."""
    if cut is None or (cut[0] == 0 and cut[1] > 0):
        return "all" if cut is None else f"first {cut[1]}"
    if cut[0] < 0:
        return f"last {-cut[0]}"
    if cut[1] <= cut[0]:
        return "none"
    return f"no. {cut[1]}" if cut[1] == cut[0] + 1 else f"{cut[0] + 1} to {cut[1]}"


def new_talk(panes: list[dict[str, Any]]) -> Talk:
    """An empty conversation."""
    return {
        "key": secrets.token_hex(12), "panes": panes, "turns": [], "busy": False, "status": "", "verified": None,
    }  # fmt: skip


def asked(talk: Talk, text: str) -> dict[str, Any]:
    """The part of a ChatRequest that says who is asked what: each pane goes on from its own answers."""
    panes, messages = [], []
    for number, pane in enumerate(talk["panes"]):
        keep = pane["keep"]
        panes.append(
            {
                "run": pane["run"] or None,
                "strength": pane["strength"],
                "cut": pane.get("cut") or ([0, int(keep)] if keep not in (None, "") else None),
            }
        )
        history: list[dict[str, str]] = []
        for turn in talk["turns"]:
            answer = turn["a"][number] if number < len(turn["a"]) else {}
            said = answer.get("text") or "".join(token[0] for token in answer.get("t", []))
            if said:
                history += [{"role": "user", "content": turn["q"]}, {"role": "assistant", "content": said}]
        messages.append([*history, {"role": "user", "content": text}])
    return {"panes": panes, "messages": messages}
