"""Joins records of one turn each into whole chats: by the column with the turn that is answered, or with the chat's id.

Of a record it knows the speaker and the text, by name, and nothing else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lora_playground.data.columns import Layout
from lora_playground.data.json_shapes import is_turn
from lora_playground.data.values import RowError
from lora_playground.wording import counted

_PARENTS = ("parent_id", "parent_message_id", "parent", "reply_to", "in_reply_to")
_IDS = ("message_id", "id", "turn_id", "msg_id")
Numbered = tuple[int, dict[str, Any] | RowError]


def joined_turns(
    records: Sequence[tuple[int, Mapping[str, Any] | RowError]], layout: Layout
) -> tuple[list[Numbered], list[str]]:
    """(chats, notes): turns joined by the turn that each one answers, else by the column with the chat's id, else all
    into one chat."""
    turns = [record for _, record in records if isinstance(record, Mapping)]
    first: Mapping[str, Any] = turns[0] if turns else {}
    parent = next((name for name in _PARENTS if name in first), "")
    own = next((name for name in _IDS if name in first), "")
    answered = {str(turn.get(parent)) for turn in turns} if parent else set()
    if own and parent and answered & {str(turn.get(own)) for turn in turns}:
        return _threads(records, own, parent)
    chats: dict[str, Numbered] = {}
    chat = layout.roles.get("chat", "")
    for line, record in records:
        if isinstance(record, RowError):
            chats[f"problem {line}"] = line, record
            continue
        turn = {name: value for name, value in record.items() if name != chat}
        found = chats.setdefault(json.dumps(record.get(chat), default=str), (line, {"messages": []}))[1]
        if not is_turn(turn) or isinstance(found, RowError):
            chats[f"problem {line}"] = line, _no_turn()
        else:
            found["messages"].append(turn)
    return [entry for entry in chats.values() if isinstance(entry[1], RowError) or entry[1]["messages"]], []


def _threads(
    records: Sequence[tuple[int, Mapping[str, Any] | RowError]], own: str, parent: str
) -> tuple[list[Numbered], list[str]]:
    """One chat for each turn that answers no other. If a turn has several answers, the best ranked is taken, else the
    first. Deleted turns are left out, with those that answer them."""
    made: list[Numbered] = []
    replies: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    roots: list[tuple[int, Mapping[str, Any]]] = []
    known = {str(record.get(own)) for _, record in records if isinstance(record, Mapping)}
    deleted = 0
    for line, record in records:
        if isinstance(record, RowError) or not is_turn(record):
            made.append((line, record if isinstance(record, RowError) else _no_turn()))
        elif str(record.get("deleted")).lower() in ("true", "1"):
            deleted += 1
        elif str(record.get(parent)) not in known:
            roots.append((line, record))
        else:
            replies.setdefault(str(record.get(parent)), []).append((line, record))
    ranked = any(_rank(answer) < math.inf for answers in replies.values() for answer in answers)
    others = sum(len(answers) - 1 for answers in replies.values())
    for line, record in roots:
        chain, seen = [record], {str(record.get(own))}
        while found := replies.get(str(chain[-1].get(own))):
            best = min(found, key=_rank)[1]
            if str(best.get(own)) in seen:
                break
            seen.add(str(best.get(own)))
            chain.append(best)
        kept = [{name: value for name, value in turn.items() if name not in (own, parent, "deleted")} for turn in chain]
        turns = [{name: value for name, value in turn.items() if name != "rank"} for turn in kept] if ranked else kept
        made.append((line, {"messages": turns}))
    notes = [f"Turns that answer each other ({parent}) are one chat."]
    if others:
        why = "further answers to a turn that has one already"
        notes.append(
            f"{counted(others, 'turn is', many='turns are')} left out: {why}{', of a lower rank' if ranked else ''}."
        )
    if deleted:
        notes.append(f"{counted(deleted, 'turn is', many='turns are')} left out: marked as deleted.")
    return sorted(made, key=lambda entry: entry[0]), notes


def _rank(numbered: tuple[int, Mapping[str, Any]]) -> float:
    """The rank that annotators gave an answer, the best lowest; infinite if they gave none."""
    value = str(numbered[1].get("rank"))
    return float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else math.inf


def _no_turn() -> RowError:
    return RowError("it is no turn of a chat: it needs who speaks and what is said.")
