"""What the columns of a file mean: finds the layout among field names, and builds a row from a record.

It knows no file formats, no torch and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_playground.data.catalogue import Row
from lora_playground.errors import DataError

ROLES = ("messages", "system", "prompt", "input", "completion", "text")
MAX_CHARACTERS = 400_000

_LAYOUTS: tuple[tuple[str, dict[str, tuple[str, ...]]], ...] = (
    ("messages", {"messages": ("messages", "conversations", "conversation", "chat")}),
    (
        "instruction/input/output",
        {"prompt": ("instruction",), "completion": ("output", "response", "completion", "answer")},
    ),
    (
        "prompt/completion",
        {"prompt": ("prompt",), "completion": ("completion", "response", "answer", "output", "chosen")},
    ),
    ("question/answer", {"prompt": ("question", "query"), "completion": ("answer", "response", "answers")}),
    (
        "input/output",
        {"prompt": ("input", "source", "user"), "completion": ("output", "target", "assistant", "response")},
    ),
    ("mr/ref", {"prompt": ("mr", "meaning_representation"), "completion": ("ref", "human_reference", "reference")}),
    ("text", {"text": ("text", "content")}),
)
_SPEAKERS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
}
_EXPECTED = (
    "messages; prompt and completion; instruction, input and output; question and answer; input and output; "
    "mr and ref; or text"
)


class RowError(Exception):
    """Why one row cannot be used and what to do about it, without saying which row it is."""


@dataclass(frozen=True)
class Layout:
    """Which column plays which role.

    Attributes:
        kind: 'messages', 'question/answer', ..., 'chosen' for a mapping that was given, '' for none.
        roles: role (see ROLES) → column name.
    """

    kind: str
    roles: dict[str, str]


def find_layout(columns: Sequence[str], mapping: Mapping[str, str] | None, name: str, required: bool = True) -> Layout:
    """Finds the roles of the columns, or checks the mapping that was given.

    Raises:
        DataError: no layout fits: names what was found and what is expected.
    """
    if mapping:
        return _chosen(columns, mapping, name)
    lower = {column.strip().lower(): column for column in reversed(columns)}
    for kind, wanted in _LAYOUTS:
        roles = {
            role: next((lower[alias] for alias in aliases if alias in lower), "") for role, aliases in wanted.items()
        }
        if all(roles.values()):
            if kind == "instruction/input/output" and "input" in lower:
                roles["input"] = lower["input"]
            if kind not in ("messages", "text"):
                system = next((lower[alias] for alias in ("system", "system_prompt") if alias in lower), "")
                if system:
                    roles["system"] = system
            return Layout(kind, roles)
    if not required:
        return Layout("", {})
    found = ", ".join(repr(column[:40]) for column in columns[:12]) or "none"
    raise DataError(
        f"{name}, line 1: the columns found are {found}; expected are {_EXPECTED}. Rename them, or say which is which."
    )


def _chosen(columns: Sequence[str], mapping: Mapping[str, str], name: str) -> Layout:
    for role, column in mapping.items():
        if role not in ROLES:
            raise DataError(f"{name}: {role!r} is no role of a column; the roles are {', '.join(ROLES)}.")
        if column not in columns:
            found = ", ".join(repr(entry[:40]) for entry in columns[:12])
            raise DataError(f"{name}, line 1: there is no column {column[:40]!r} for {role}; found are {found}.")
    given = set(mapping)
    if not ("messages" in given or "text" in given or {"prompt", "completion"} <= given):
        raise DataError(
            f"{name}: the mapping needs messages, or text, or prompt and completion; given are {sorted(given)}."
        )
    return Layout("chosen", dict(mapping))


def build_row(record: Mapping[str, Any], layout: Layout) -> Row:
    """One record as `{"messages": [...]}` or `{"text": ...}`; raises RowError."""
    roles = layout.roles
    if "messages" in roles:
        row: Row = {"messages": _messages(record.get(roles["messages"]), roles["messages"])}
    elif "text" in roles:
        row = {"text": _text(record, roles["text"])}
    else:
        prompt = _text(record, roles["prompt"])
        if "input" in roles and record.get(roles["input"]) not in (None, ""):
            extra = _text(record, roles["input"], blank=True)
            prompt = f"{prompt}\n\n{extra}" if extra.strip() else prompt
        messages = [{"role": "user", "content": prompt}]
        if "system" in roles and record.get(roles["system"]) not in (None, ""):
            messages.insert(0, {"role": "system", "content": _text(record, roles["system"])})
        messages.append({"role": "assistant", "content": _text(record, roles["completion"])})
        row = {"messages": messages}
    length = sum(len(message["content"]) for message in row.get("messages", ())) + len(row.get("text", ""))
    if length > MAX_CHARACTERS:
        raise RowError(
            f"it has {length:,} characters; at most {MAX_CHARACTERS:,} are allowed. Cut it into several rows."
        )
    return row


def _text(record: Mapping[str, Any], column: str, blank: bool = False) -> str:
    if column not in record:
        fields = ", ".join(repr(str(key)[:30]) for key in list(record)[:8]) or "none"
        raise RowError(f"the field {column[:40]!r} is missing (there are: {fields}). Add it, or leave the row out.")
    return _clean(record[column], column, blank)


def _clean(value: Any, column: str, blank: bool = False) -> str:
    """Text as it is; numbers as text; all else is refused."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
        kind = kinds.get(type(value), f"a {type(value).__name__}")  # Parquet has dates, bytes and decimals
        raise RowError(f"{column[:40]!r} holds {kind} where text is needed. Write it as text in quotes.")
    try:
        text = value if isinstance(value, str) else str(value)
    except ValueError:
        raise RowError(f"{column[:40]!r} holds a number of thousands of digits. Write it as text in quotes.") from None
    if text in ("inf", "-inf", "nan") and not isinstance(value, str):
        raise RowError(f"{column[:40]!r} holds a number that is not finite. Write what is meant as text in quotes.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
            f"{column[:40]!r} holds half a character ({text[error.start]!a} at position {error.start}). "
            "Replace it by the whole character, or delete it."
        ) from None
    if "\0" in text:
        raise RowError(f"{column[:40]!r} holds a NUL character at position {text.index(chr(0))}. Delete it.")
    if not blank and not text.strip():
        raise RowError(f"{column[:40]!r} is empty. Fill it in, or leave the row out.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _messages(value: Any, column: str) -> list[dict[str, str]]:
    """Checks a chat: roles known and taking turns, the last word the assistant's."""
    if not isinstance(value, list) or not value:
        raise RowError(f'{column[:40]!r} must be a list of {{"role": ..., "content": ...}} with at least two entries.')
    messages: list[dict[str, str]] = []
    for number, entry in enumerate(value, 1):
        if not isinstance(entry, dict):
            raise RowError(f'message {number} is not an object. Write {{"role": "user", "content": "..."}}.')
        speaker = entry.get("role", entry.get("from"))
        role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
        if role is None:
            raise RowError(
                f"message {number} has the role {str(speaker)[:30]!r}; allowed are system, user and assistant."
            )
        content = _clean(entry.get("content", entry.get("value")), f"content of message {number}")
        before = messages[-1]["role"] if messages else None
        if role == "system" and before is not None:
            raise RowError(f"message {number} is a system message, which may only come first. Move or delete it.")
        if role == before:
            raise RowError(f"messages {number - 1} and {number} are both from the {role}. Join them into one.")
        if role == "assistant" and before in (None, "system"):
            raise RowError(f"message {number} is the assistant's, but nobody asked yet. Begin with a user message.")
        messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "assistant":
        raise RowError(
            f"the last message is from the {messages[-1]['role']}. End with the assistant's answer to learn from."
        )
    return messages
