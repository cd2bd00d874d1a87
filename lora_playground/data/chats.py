"""Builds the chat of a row from a record and its layout, and records which parts it did not use.

A row is `{"messages": [{"role", "content"}, ...]}` or `{"text": ...}`. An assistant's turn may have `tool_calls`, and
`"weight": 0` if it is context that is not learned. It knows no file formats, no torch and no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lora_playground.data.catalogue import Row
from lora_playground.data.choices import Choices
from lora_playground.data.columns import Layout
from lora_playground.data.json_shapes import SAID, SPEAKER, is_chat
from lora_playground.data.translations import Translations
from lora_playground.data.values import MISSING, RowError, answer_in, is_list_of_texts, parse_json, text_of, unpacked
from lora_playground.wording import counted

MAX_CHARACTERS = 400_000

_SPEAKERS = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "customer": "user",
    "agent": "assistant", "ai": "assistant", "chatbot": "assistant",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "tool": "tool", "function": "tool", "ipython": "tool", "observation": "tool", "tool_response": "tool",
    "function_call": "call", "tool_call": "call",
}  # fmt: skip
_LEARNED = ("weight", "train", "training")
"""Keys of a message that say whether it is learned."""
_RATED = ("rating", "label", "score", "feedback", "thumbs")
_BAD = frozenset(
    "false 0 0.0 -1 bad no down thumbs_down dislike reject rejected undesirable negative low poor wrong incorrect "
    "invalid 👎".split()
)
_GOOD = frozenset(
    "true 1 1.0 +1 good yes up thumbs_up like accept accepted desirable positive high right correct valid 👍".split()
)
_MEDIA = ("image", "video", "audio")
_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \n]?")


class Chats:
    """Builds rows, and collects the notes on them that the user should see.

    Args:
        layout: which column plays which role. records: all records of the file.
    """

    def __init__(self, layout: Layout, records: Sequence[Mapping[str, Any]] = ()) -> None:
        self.roles = layout.roles
        self.layout = layout
        self.choices = Choices(layout.roles, records)
        self.translations = Translations(layout.roles)
        self._left: dict[str, None] = {}
        self._said: dict[str, tuple[int, str]] = {}

    def build(self, record: Mapping[str, Any]) -> Row | None:
        """One record as a row; None if it is rated as bad. Raises RowError if it cannot be used."""
        if self._is_bad(record):
            return None
        if "messages" in self.roles:
            row: Row = {"messages": self._checked(self._with_system(record, self._chat(record)))}
        elif self.layout.classifies:
            row = self._labelled(record)
        elif self.layout.kind == "translation":
            row = {"messages": self._translation(record)}
        elif "text" in self.roles:
            row = {"text": self._text(record, "text")}
        else:
            row = {"messages": self._checked(self._with_system(record, self._asked_and_answered(record)))}
        self._refuse_media(record, row)
        length = sum(len(message["content"]) for message in row.get("messages", ())) + len(row.get("text", ""))
        if length > MAX_CHARACTERS:
            raise RowError(
                f"it has {length:,} characters; at most {MAX_CHARACTERS:,} are allowed. Cut it into several rows."
            )
        return row

    def _refuse_media(self, record: Mapping[str, Any], row: Row) -> None:
        """Raises RowError if the chat refers to a picture or a sound in another column."""
        places = {kind for turn in row.get("messages", ()) for kind in _MEDIA if f"<{kind}>" in turn["content"]}
        for column, value in record.items():
            if value and any(column.lower().startswith(kind) for kind in places):
                raise RowError(f"it is about the {column[:40]!r} that comes with it; only text can be learned.")

    def not_used(self, columns: Iterable[str]) -> list[str]:
        """Columns that play no role, and keys inside the used ones that were not read."""
        return [*(column for column in columns if column not in self.roles.values()), *self._left]

    def notes(self) -> list[str]:
        """Changes to the rows that the user may not expect."""
        said = [
            text.format(rows=counted(many, "row"), answers=counted(many, "answer is", many="answers are"), last=last)
            for text, (many, last) in self._said.items()
        ]
        return self.choices.notes() + said

    def _say(self, text: str, last: str = "") -> None:
        self._said[text] = (self._said.get(text, (0, ""))[0] + 1, last)

    # ------------------------------------------------------------------------------------------------- values

    def _text(self, record: Mapping[str, Any], role: str, blank: bool = False) -> str:
        column = self.roles[role]
        if column not in record:
            fields = ", ".join(repr(str(key)[:30]) for key in list(record)[:8]) or "none"
            raise RowError(f"the field {column[:40]!r} is missing (there are: {fields}). Add it, or leave the row out.")
        value = record[column]
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
            value = value[0]
        return text_of(value, column, blank)

    def _has(self, record: Mapping[str, Any], role: str) -> bool:
        """Whether the column of an optional role holds something in this row."""
        value = record.get(self.roles[role]) if role in self.roles else None
        return value is not None and value != [] and not (isinstance(value, str) and not value.strip())

    def _answer(self, record: Mapping[str, Any]) -> str:
        """The text of an answer. A boolean becomes yes or no; of several answers the first is taken."""
        column = self.roles["completion"]
        value, several, unused = answer_in(record.get(column), column)
        self._left.update(dict.fromkeys(f"{column}.{key}" for key in unused))
        if several:
            self._say(f"{column}: the first is learned where there are several ({{rows}}).")
        value = self.choices.right(record, value)
        if isinstance(value, bool):
            self._say(f"{column}: true and false are learned as the words yes and no ({{rows}}).")
            value = "yes" if value else "no"
        if isinstance(value, str) and value.strip() in MISSING:
            raise RowError(f"{column[:40]!r} is {value.strip()}: the row has no answer. Fill it in, or leave it out.")
        if isinstance(value, str) and is_list_of_texts(value):
            self._say(f"{column}: lists such as {{last:.40}} are learned as they are written ({{rows}}).", value)
        return self._text({**record, column: value} if column in record else record, "completion")

    def _leave(self, where: str, found: Mapping[str, Any], used: Sequence[str]) -> None:
        self._left.update(dict.fromkeys(f"{where}.{key}" for key in found if key not in used))

    # -------------------------------------------------------------------------------------------------- rows

    def _is_bad(self, record: Mapping[str, Any]) -> bool:
        value = record.get(self.roles.get("rating", ""))
        if str(value).strip().lower() not in _BAD:
            return False
        self._say(f"{{rows}} were left out: {self.roles['rating']} marks them as bad ({value}).")
        return True

    def _with_system(self, record: Mapping[str, Any], turns: list[Any]) -> list[Any]:
        if not self._has(record, "system"):
            return turns
        value = record[self.roles["system"]]
        if isinstance(value, dict):  # {"parts": [{"text": ...}]}
            value = next((value[key] for key in SAID if key in value), None)
        text = _content(value, self.roles["system"])
        if turns and isinstance(turns[0], dict) and turns[0].get("role") == "system":
            rest = turns[0]["content"]
            return [{"role": "system", "content": text if rest == text else f"{text}\n\n{rest}"}, *turns[1:]]
        return [{"role": "system", "content": text}, *turns]

    def _chat(self, record: Mapping[str, Any]) -> list[Any]:
        column = self.roles["messages"]
        if unpacked(record.get("tools")):
            raise RowError("it describes tools in the field 'tools', which is not understood. Leave them out.")
        return self._turns(record.get(column), column)

    def _asked_and_answered(self, record: Mapping[str, Any]) -> list[Any]:
        """The chat of a row whose question and answer stand in columns of their own."""
        answer = record.get(self.roles["completion"])
        turns: list[Any] = self._history(record)
        if is_chat(unpacked(answer)):
            learned = self._turns(answer, self.roles["completion"])
        elif self.layout.kind == "chosen/rejected" and "prompt" not in self.roles:
            learned = _transcript(self._text(record, "completion"))
        else:
            learned = [{"role": "assistant", "content": self._answer(record)}]
        if "rejected" in self.roles:
            self._say(f"{self.roles['completion']} is learned, {self.roles['rejected']} is not ({{rows}}).")
        if learned[0]["role"] != "assistant":
            return turns + learned
        asked = record.get(self.roles["prompt"])
        if is_chat(unpacked(asked)):
            return turns + self._turns(asked, self.roles["prompt"]) + learned
        return [*turns, {"role": "user", "content": self._question(record)}, *learned]

    def _question(self, record: Mapping[str, Any]) -> str:
        """The question: language line, context, prompt, input, choices; of an instruction the context comes after the
        input."""
        parts = list(filter(None, [self.translations.asked(record)]))
        if parts:
            self._say("The languages of each row stand before its text: {last} ... ({rows}).", parts[0])
        parts += [self._context(record)] if self._has(record, "context") else []
        has_input = self._has(record, "input")
        if self._has(record, "prompt") or not has_input:
            parts.append(self._text(record, "prompt"))
        if has_input:
            parts.append(self._text(record, "input"))
        if self.layout.kind == "instruction/input/output" and self._has(record, "context"):
            parts = [*parts[1:], parts[0]]
        return "\n\n".join([*parts, *filter(None, [self.choices.below(record)])])

    def _context(self, record: Mapping[str, Any]) -> str:
        """The context before the question, which may be several texts."""
        column = self.roles["context"]
        value = unpacked(record[column])
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return "\n\n".join(text_of(one, column) for one in value)
        return self._text(record, "context")

    def _history(self, record: Mapping[str, Any]) -> list[Any]:
        """Earlier turns: pairs of question and answer, turns, or texts of user and assistant alternately."""
        if not self._has(record, "history"):
            return []
        column = self.roles["history"]
        value = unpacked(record[column])
        if is_chat(value):
            return self._turns(value, column)
        if not isinstance(value, list):
            raise RowError(f"{column[:40]!r} must be a list of earlier turns, such as [[question, answer], ...].")
        flat = [text for pair in value for text in (pair if isinstance(pair, list) else [pair])]
        if len(flat) % 2 or any(isinstance(pair, list) and len(pair) != 2 for pair in value):
            raise RowError(f"{column[:40]!r} must hold pairs of question and answer.")
        roles = ("user", "assistant") * (len(flat) // 2)
        return [{"role": role, "content": text_of(text, column)} for role, text in zip(roles, flat)]

    def _translation(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        column = self.roles.get("translation", "translation")
        pair, source, target = self.translations.pair(record)
        self._leave(column, pair, (source, target))
        self._say(f"Translations go from {source} to {target} ({{rows}}).")
        asked = f"Translate from {source} to {target}:\n\n{text_of(pair[source], f'{column}.{source}')}"
        answer = text_of(pair[target], f"{column}.{target}")
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]

    def _labelled(self, record: Mapping[str, Any]) -> Row:
        """A text and its label; `data.classification` adds the instruction."""
        column = self.roles.get("names") or self.roles["label"]
        label = record.get(column)
        if isinstance(label, bool):
            label = "true" if label else "false"
        if isinstance(label, list) and len(label) == 1:
            label = label[0]
        if isinstance(label, list) and len(label) > 1:
            raise RowError(f"{column[:40]!r} holds {len(label)} labels; a classification here has one for each text.")
        text = self._text(record, "text")
        if "input" in self.roles:
            parts = ((self.roles["text"], text), (self.roles["input"], self._text(record, "input")))
            text = "\n".join(f"{name}: {part}" for name, part in parts)
        answer = text_of(label, column).strip()
        if answer in (*MISSING, "NULL") or (answer == "-1" and "input" in self.roles):  # as pairs without a label have
            raise RowError(f"{column[:40]!r} is {answer}: the row has no label. Fill it in, or leave the row out.")
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return {"messages": messages}

    # --------------------------------------------------------------------------------------------------- turns

    def _turns(self, value: Any, column: str) -> list[dict[str, Any]]:
        """A list of turns, each with role and content, and with tool calls and their results."""
        value = unpacked(value)
        if not isinstance(value, list) or not value:
            raise RowError(
                f'{column[:40]!r} must be a list of {{"role": ..., "content": ...}} with at least two entries.'
            )
        return [self._turn(entry, number, column) for number, entry in enumerate(value, 1)]

    def _turn(self, entry: Any, number: int, column: str) -> dict[str, Any]:
        if not isinstance(entry, dict):
            raise RowError(f'message {number} is not an object. Write {{"role": "user", "content": "..."}}.')
        speaker_key = _given(entry, SPEAKER)
        said_key = _given(entry, SAID)
        speaker = entry.get(speaker_key)
        role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
        if role is None:
            raise RowError(
                f"message {number} has the role {str(speaker)[:30]!r}; allowed are system, user, assistant and tool."
            )
        used = [speaker_key, said_key]
        calls = entry.get("tool_calls") or ([entry["function_call"]] if entry.get("function_call") else None)
        where = f"content of message {number}"
        if role == "call":
            turn: dict[str, Any] = {"role": "assistant", "content": ""}
            turn["tool_calls"] = _calls([entry.get(said_key)], number)
        elif calls:
            if role != "assistant":
                raise RowError(f"message {number} calls a tool, which only the assistant may do.")
            used += ["tool_calls", "function_call"]
            content = entry.get(said_key)
            turn = {"role": role, "content": "" if content is None else _content(content, where, blank=True)}
            turn["tool_calls"] = _calls(calls, number)
        else:
            turn = {"role": role, "content": _content(entry.get(said_key), where, blank=role == "tool")}
        if role == "tool":
            used += ["name", "tool_call_id"]
            turn |= {key: str(entry[key]) for key in ("name", "tool_call_id") if entry.get(key)}
        if turn["role"] == "assistant" and not self._is_learned(entry, number, used):
            turn["weight"] = 0
        self._leave(f"{column}[]", entry, used)
        return turn

    def _is_learned(self, entry: Mapping[str, Any], number: int, used: list[str]) -> bool:
        """Whether an answer is to be learned, by its own keys; the keys that decided are added to `used`."""
        for key in _LEARNED:
            if entry.get(key) is not None:
                if str(entry[key]).lower() not in ("0", "1", "0.0", "1.0", "true", "false"):
                    raise RowError(f"message {number} has {key} {str(entry[key])[:20]!r}; only 0 and 1 are understood.")
                used.append(key)
                if str(entry[key]).lower() in ("0", "0.0", "false"):
                    self._say(f"{{answers}} read but not learned: {key} says so.")
                    return False
        for key in _RATED:
            value = str(entry.get(key)).strip().lower()
            if value in _BAD | _GOOD:
                used.append(key)
                if value in _BAD:
                    self._say(f"{{answers}} read but not learned: {key} marks them as bad.")
                    return False
        return True

    def _checked(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Turns in an order that chat templates accept: the system first, then user and assistant alternately, results
        of tools between two turns of the assistant, and the assistant last. Raises RowError if that is impossible."""
        before = ""
        for number, turn in enumerate(messages, 1):
            role = turn["role"]
            if role == "system" and before:
                raise RowError(f"message {number} is a system message, which may only come first. Move or delete it.")
            if role == before and role != "tool":
                raise RowError(f"messages {number - 1} and {number} are both from the {role}. Join them into one.")
            if role == "assistant" and before in ("", "system"):
                raise RowError(f"message {number} is the assistant's, but nobody asked yet. Begin with a user message.")
            if role == "tool" and before != "tool" and not (number > 1 and messages[number - 2].get("tool_calls")):
                raise RowError(f"message {number} is a tool's answer, but no tool was called before it.")
            before = role
        if before != "assistant":
            raise RowError(f"the last message is from the {before}. End with the assistant's answer to learn from.")
        if all(turn.get("weight") == 0 for turn in messages if turn["role"] == "assistant"):
            raise RowError("none of its answers is to be learned. Leave the row out.")
        return messages


def _given(entry: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The first of `keys` whose value is not null, else the first that is there: in a file joined from several, a row
    has the keys of all of them, with null for those of the other files."""
    there = [key for key in keys if key in entry]
    return next((key for key in there if entry[key] is not None), there[0] if there else keys[0])


def _content(value: Any, where: str, blank: bool = False) -> str:
    """The text of a turn, which may be split into several parts."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        kinds = [part.get("type", "text") for part in value]
        odd = next((kind for kind in kinds if kind not in ("text", "input_text", "output_text")), None)
        if odd is not None:
            raise RowError(f"{where} holds a part of type {str(odd)[:30]!r}; only text can be learned.")
        return text_of("".join(text_of(part.get("text"), where, blank=True) for part in value), where, blank)
    return text_of(value, where, blank)


def _calls(calls: Any, number: int) -> list[dict[str, Any]]:
    """Tool calls in the form of chat templates: `{"type": "function", "function": {"name", "arguments"}}`."""
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        call = unpacked(call)
        about = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(about, dict) or not isinstance(about.get("name"), str):
            raise RowError(f"message {number} calls a tool without a name. Write {{'name': ..., 'arguments': ...}}.")
        arguments = about.get("arguments", about.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = parse_json(arguments)
            except RowError:
                raise RowError(f"message {number} calls a tool with arguments that are no JSON.") from None
        if not isinstance(arguments, dict):
            raise RowError(f"message {number} calls a tool with arguments that are no JSON object.")
        function = {"name": about["name"], "arguments": arguments}
        kept = {"id": str(call["id"])} if call.get("id") else {}
        found.append({**kept, "type": "function", "function": function})
    return found


def _transcript(text: str) -> list[dict[str, Any]]:
    """The turns of a text such as '\\n\\nHuman: ...\\n\\nAssistant: ...'."""
    pieces = _TRANSCRIPT.split(text)
    if len(pieces) < 5 or pieces[0].strip():
        raise RowError("there is no question: give a column prompt, or turns marked Human: and Assistant:.")
    roles = [{"Human": "user", "Assistant": "assistant"}[who] for who in pieces[1::2]]
    return [{"role": role, "content": text_of(said.strip(), "chosen")} for role, said in zip(roles, pieces[2::2])]


def understood(layout: Layout, records: Iterable[Mapping[str, Any]]) -> tuple[Layout, list[str]]:
    """(the layout, notes). A rating column with values that are neither good nor bad is dropped, with a note."""
    column = layout.roles.get("rating")
    if column is None:
        return layout, []
    values = {str(value).strip().lower() for record in records if (value := record.get(column)) not in (None, "")}
    if values and values <= _BAD | _GOOD:
        return layout, []
    roles = {role: name for role, name in layout.roles.items() if role != "rating"}
    return Layout(layout.kind, roles), [f"All rows are learned, whatever {column} says of them."]
