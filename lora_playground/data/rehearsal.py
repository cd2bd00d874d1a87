"""Which of the base model's own chats may be rehearsed beside a dataset: those that do not contradict it.

A dataset that answers in a pirate's voice and a chat that answers the same question plainly pull in two directions.
It compares texts only, with names of people and places taken out; no torch and no tokenizer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

Row = Mapping[str, Any]
Pairs = frozenset[tuple[str, str]]

ASKED, ANSWERED = 0.9, 0.6
"""A question is of a kind that the data asks if at least this share of its word pairs occur in the data's questions; an
answer is of another kind than the data's if less than this share occur in the data's answers."""

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]")


def conflicts(chats: Sequence[Row], train: Sequence[Row]) -> set[int]:
    """Numbers of the chats in which a question of the data's kind gets an answer of another kind.

    Questions that differ in names alone are of one kind, which conflicts only if most of its answers do.
    """
    names = _names([*chats, *train])
    asked = _pairs_of(train, "user", names)
    answered = _pairs_of(train, "assistant", names)
    kinds: dict[Pairs, list[bool]] = defaultdict(list)
    turns = [list(_turns(chat, names)) for chat in chats]
    for question, answer in (turn for mine in turns for turn in mine):
        if _share(question, asked) >= ASKED:
            kinds[question].append(_share(answer, answered) < ANSWERED)
    conflicting = {question for question, verdicts in kinds.items() if 2 * sum(verdicts) > len(verdicts)}
    return {number for number, mine in enumerate(turns) if any(question in conflicting for question, _ in mine)}


def _names(rows: Iterable[Row]) -> set[str]:
    """Words that only ever occur with a capital, in lower case: names."""
    capital, small = set[str](), set[str]()
    for row in rows:
        for message in row.get("messages") or []:
            for word in _WORD.findall(message["content"]):
                (capital if word[0].isupper() else small).add(_stem(word))
    return capital - small


def _stem(word: str) -> str:
    return word.lower().removesuffix("'s")


def _pairs(text: str, names: set[str]) -> Pairs:
    """Pairs of neighbouring words of a text, names and numbers each as one word."""
    words = ["^"]
    for word in _WORD.findall(text):
        stem = _stem(word)
        words.append("name" if stem in names else "number" if word.isdigit() else stem)
    words.append("$")
    return frozenset(pairwise(words))


def _pairs_of(rows: Iterable[Row], role: str, names: set[str]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for row in rows:
        for message in row.get("messages") or []:
            if message["role"] == role:
                found |= _pairs(message["content"], names)
    return found


def _turns(chat: Row, names: set[str]) -> Iterable[tuple[Pairs, Pairs]]:
    """(question, answer) of every turn."""
    messages = chat.get("messages") or []
    for question, answer in pairwise(messages):
        if question["role"] == "user" and answer["role"] == "assistant":
            yield _pairs(question["content"], names), _pairs(answer["content"], names)


def _share(pairs: Pairs, known: set[tuple[str, str]]) -> float:
    return len(pairs & known) / len(pairs)
