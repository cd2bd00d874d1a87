"""Splits texts that are whole chats, written with the marks of some model's template or with names before each turn.

It knows the usual marks, and no file formats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lora_playground.data.catalogue import Row

_ROLES = {
    "human": "user", "user": "user", "prompter": "user", "q": "user", "question": "user", "instruction": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant",
    "a": "assistant", "answer": "assistant", "response": "assistant", "system": "system", "input": "input",
}  # fmt: skip
_TAGGED: dict[str, re.Pattern[str]] = {
    "<|im_start|>": re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\s*|\Z)", re.S),
    "<|start_header_id|>": re.compile(
        r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*(.*?)(?:<\|eot_id\|>\s*|\Z)", re.S
    ),
    "<start_of_turn>": re.compile(r"<start_of_turn>(\w+)\n(.*?)(?:<end_of_turn>\s*|\Z)", re.S),
    "<|user|>": re.compile(
        r"<\|(system|user|assistant)\|>\s*(.*?)\s*"
        r"(?:(?:</s>|<\|end\|>|<\|endoftext\|>)\s*|(?=<\|(?:user|assistant)\|>)|\Z)",
        re.S,
    ),
}
"""Mark → pattern of a turn with that mark; its groups are the speaker and the text."""
_NAMED: dict[str, re.Pattern[str]] = {
    "###": re.compile(
        r"###\s*(Human|User|Assistant|Instruction|Input|Response|System):?\s*(.*?)(?=###|\Z)", re.S | re.I
    ),
    "Human:": re.compile(r"^(Human|Assistant):[ \n](.*?)(?=^(?:Human|Assistant):|\Z)", re.S | re.M),
    "User:": re.compile(r"^(System|User|Assistant|Bot):[ \n](.*?)(?=^(?:User|Assistant|Bot):|\Z)", re.S | re.M | re.I),
    "Q:": re.compile(r"^(Q|A):[ \n](.*?)(?=^(?:Q|A):|\Z)", re.S | re.M),
    "Question:": re.compile(r"^(Question|Answer):[ \n](.*?)(?=^(?:Question|Answer):|\Z)", re.S | re.M),
}  # fmt: skip
_LLAMA = re.compile(r"\[INST\]\s*(?:<<SYS>>(.*?)<</SYS>>)?(.*?)\[/INST\](.*?)(?=<s>|\[INST\]|\Z)", re.S)
_AROUND = re.compile(r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|</s>|<\|endoftext\|>|<\|end_of_text\|>|<eos>)\s*")
MARKS = (*_TAGGED, "[INST]")
"""Marks that do not occur in plain text."""


def turns_of(text: str) -> tuple[str, list[dict[str, Any]]] | None:
    """(the mark, the turns) of a text that is a chat as a whole; None for any other text."""
    for mark, pattern in {**_TAGGED, **_NAMED}.items():
        found = list(pattern.finditer(text))
        if found and not _AROUND.sub("", pattern.sub("", text)).strip():
            turns = _joined([(_ROLES.get(one[1].lower(), ""), _AROUND.sub("", one[2]).strip()) for one in found])
            if turns:
                return mark, turns
    found = list(_LLAMA.finditer(text))
    if found and not _AROUND.sub("", _LLAMA.sub("", text)).strip():
        system = (found[0][1] or "").strip()
        said = [("system", system)] if system else []
        for one in found:
            said += [("user", one[2].strip()), ("assistant", _AROUND.sub("", one[3]).strip())]
        turns = _joined(said)
        return ("[INST]", turns) if turns else None
    return None


def _joined(said: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """A system text, then user and assistant alternately; empty if the turns are in another order or one is empty."""
    turns: list[dict[str, Any]] = []
    for role, text in said:
        if role == "input" and turns and turns[-1]["role"] == "user":
            turns[-1]["content"] += f"\n\n{text}" if text else ""
        else:
            turns.append({"role": role, "content": text})
    rest = [turn["role"] for turn in (turns[1:] if turns and turns[0]["role"] == "system" else turns)]
    in_turn = rest == ["user", "assistant"] * (len(rest) // 2)
    return turns if rest and in_turn and all(turn["content"] for turn in turns) else []


def read_chats(rows: Sequence[Row]) -> list[str]:
    """Turns the rows into chats, in place, if the text of every one is a chat; returns notes for the user."""
    found = [turns_of(row["text"]) for row in rows]
    if rows and all(found):
        marks = ", ".join(dict.fromkeys(one[0] for one in found if one))
        for row, one in zip(rows, found, strict=True):
            del row["text"]
            row["messages"] = one[1]  # type: ignore[index]
        return [f"The texts are chats written with {marks}; they were read as chats, of which the answers are learned."]
    held = [next((mark for mark in MARKS if mark in row["text"]), "") for row in rows]
    if any(held):
        mark, count = next(mark for mark in held if mark), sum(map(bool, held))
        return [f"{count} texts hold marks of a chat ({mark}) and are no whole chats: they are learned as plain text."]
    return []
