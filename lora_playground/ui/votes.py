"""Stores which pane a person preferred at a question, with every run of the conversation. It draws nothing."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from lora_playground.errors import PlaygroundError
from lora_playground.ui import cards
from lora_playground.ui.conversation import Conversation

if TYPE_CHECKING:
    from lora_playground.runs import RunStore


def keep_vote(store: RunStore, conversation: Conversation, voted: str, number: str) -> str:
    """Adds a line to `votes.jsonl` of every run of the conversation.

    Args:
        voted: id of the preferred pane's run, "" for the base. number: index of the question, from 0.

    Returns:
        A message for the page; "" if the vote fits no question or run.
    """
    runs = [pane["run"] for pane in conversation["panes"] if pane["run"]]
    if not number.isdecimal() or int(number) >= len(conversation["turns"]) or voted not in ("", *runs):
        return ""
    turn = conversation["turns"][int(number)]
    vote = {"time": time.time(), "prompt": turn["q"], "preferred": voted or "base", "panes": ["base", *runs]}
    vote["settings"] = turn.get("ask")
    try:
        for run in runs:
            with open(store.get(run).folder / "votes.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(vote, ensure_ascii=False) + "\n")
    except (PlaygroundError, OSError) as failure:
        return cards.error(f"The vote could not be kept: {failure}")
    return '<p class="lp-note" role="status">Kept with the run: thank you.</p>'
