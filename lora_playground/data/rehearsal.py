"""Which of the base model's own chats may be rehearsed beside a dataset: those that do not contradict it.

A dataset that answers in a pirate's voice and a chat that answers the same question plainly pull in two directions.
It compares texts only, with names of people and places taken out; no torch and no tokenizer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Any

Row = Mapping[str, Any]
Pair = tuple[str, str]

ASKED, ANSWERED = 0.8, 0.6
"""Shares of word pairs. A chat's question is of the data's kind if it begins like one of the data's questions and at
least ASKED of its pairs occur in them; its answer is of another kind if less than ANSWERED of its pairs occur in the
data's answers."""
WHOLE = 1 / 3
"""A skill is left out whole if more than this share of its chats conflict: its other chats ask for the same in words
that are not in the data."""
UNKNOWN = "I don't know"
"""The beginning of the embedded model's answers about names that it does not know."""

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]")
_ENDS = frozenset('.!?:"')
"""After these every word has a capital."""


def conflicts(chats: Sequence[Row], train: Sequence[Row]) -> set[int]:
    """Indices of the chats in which a question of the data's kind gets an answer of another kind; see `compared`."""
    return compared(chats, train)[0]


def compared(chats: Sequence[Row], train: Sequence[Row]) -> tuple[set[int], list[float]]:
    """Compares chats with a dataset.

    An answer is also of another kind if it begins like none of the data's. Questions that differ in names alone are of
    one kind, which conflicts only if most of its answers do. The answer that a name is unknown conflicts with nothing
    if the data does not ask about that name. If the chats have a skill (`meta.skill`), all chats of a skill of which
    more than WHOLE conflict count as conflicting.

    Args:
        chats: the base model's own. train: the dataset's rows.

    Returns:
        (indices of the chats in which a question of the data's kind gets an answer of another kind; for every chat the
        largest share of a question's word pairs that occur in the data's questions, 0 to 1).
    """
    names = _names([*chats, *train])
    asked, answered, openings, about = _said(train, names)
    kinds: dict[frozenset[Pair], list[bool]] = defaultdict(list)
    turns: list[list[frozenset[Pair]]] = []
    near: list[float] = []
    for chat in chats:
        near.append(0.0)
        mine: list[frozenset[Pair]] = []
        for question, answer in _turns(chat):
            words = _pairs(question, names, trim=True)
            alike = _share(words, asked)
            near[-1] = max(near[-1], alike)
            stranger = answer.startswith(UNKNOWN) and not about & _names_in(question, names)
            if stranger or words[0] not in asked or alike < ASKED:
                continue
            said, kind = _pairs(answer, names), frozenset(words)
            kinds[kind].append(said[0] not in openings or _share(said, answered) < ANSWERED)
            mine.append(kind)
        turns.append(mine)
    conflicting = {question for question, verdicts in kinds.items() if 2 * sum(verdicts) > len(verdicts)}
    found = {number for number, mine in enumerate(turns) if any(question in conflicting for question in mine)}
    return found | _of_same_skill(chats, found), near


def _of_same_skill(chats: Sequence[Row], conflicting: AbstractSet[int]) -> set[int]:
    """Indices of all chats of the skills of which more than WHOLE of the chats conflict."""
    by_skill: dict[str, list[int]] = defaultdict(list)
    for number, chat in enumerate(chats):
        if skill := (chat.get("meta") or {}).get("skill"):
            by_skill[skill].append(number)
    gone = [numbers for numbers in by_skill.values() if len(conflicting & set(numbers)) > WHOLE * len(numbers)]
    return {number for numbers in gone for number in numbers}


def _said(train: Iterable[Row], names: AbstractSet[str]) -> tuple[set[Pair], set[Pair], set[Pair], set[str]]:
    """Of the data: word pairs of its questions and of its answers, the answers' first pairs, names in questions."""
    asked, answered, openings, about = set[Pair](), set[Pair](), set[Pair](), set[str]()
    for row in train:
        for message in row.get("messages") or []:
            text = message["content"]
            if message["role"] == "user":
                asked.update(_pairs(text, names, trim=True))
                about |= _names_in(text, names)
            elif message["role"] == "assistant":
                pairs = _pairs(text, names)
                answered.update(pairs)
                openings.add(pairs[0])
    return asked, answered, openings, about


def _names(rows: Iterable[Row]) -> set[str]:
    """Words, in lower case, that have a capital within a sentence and never occur without one."""
    capital, small = set[str](), set[str]()
    for row in rows:
        for message in row.get("messages") or []:
            before = "."
            for word in _WORD.findall(message["content"]):
                if not word[0].isupper():
                    small.add(_stem(word))
                elif before not in _ENDS:
                    capital.add(_stem(word))
                before = word
    return capital - small


def _names_in(text: str, names: AbstractSet[str]) -> set[str]:
    return {_stem(word) for word in _WORD.findall(text)} & names


def _stem(word: str) -> str:
    return word.lower().removesuffix("'s")


def _pairs(text: str, names: AbstractSet[str], trim: bool = False) -> list[Pair]:
    """Pairs of neighbouring words of a text, with every name replaced by 'name' and every number by 'number'; `trim`
    leaves out the marks at its end."""
    words = _WORD.findall(text)
    while trim and words and words[-1] in _ENDS:
        words.pop()
    kinds = []
    for word in words:
        stem = _stem(word)
        kinds.append("name" if stem in names else "number" if word.isdigit() else stem)
    return list(pairwise(["^", *kinds, "$"]))


def _turns(chat: Row) -> Iterable[tuple[str, str]]:
    """(question, answer) of every turn."""
    for question, answer in pairwise(chat.get("messages") or []):
        if question["role"] == "user" and answer["role"] == "assistant":
            yield question["content"], answer["content"]


def _share(pairs: Iterable[Pair], known: AbstractSet[Pair]) -> float:
    different = set(pairs)
    return len(different & known) / len(different)
