"""What the columns of a file mean: finds the layout from the columns' names, or checks a mapping that the user gives.

It knows names only: no file formats, no torch and no tokenizer. `data.chats` builds rows from the layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_playground.data.choices import option_roles
from lora_playground.data.json_shapes import TURNS
from lora_playground.data.translations import language_roles
from lora_playground.errors import DataError

ROLES = ("messages", "system", "history", "context", "prompt", "input", "completion", "text", "label")
"""Roles that a user can give to a column; see `Layout`."""
CLASSIFICATION = "text/label"

_ANSWERS = (
    "completion", "response", "answer", "answers", "output", "target", "solution", "correct_answer", "best_answer",
    "answerkey", "answer_key", "canonical_solution",
)  # fmt: skip
_LAYOUTS: tuple[tuple[str, dict[str, tuple[str, ...]]], ...] = (
    (
        "text/summary",
        {"prompt": ("dialogue", "dialog", "article", "document", "text"), "completion": ("summary", "highlights")},
    ),
    ("messages", {"messages": TURNS}),
    ("chosen/rejected", {"completion": ("chosen", "preferred"), "rejected": ("rejected", "dispreferred")}),
    ("instruction/input/output", {"prompt": ("instruction",), "completion": ("output", *_ANSWERS)}),
    ("prompt/completion", {"prompt": ("prompt",), "completion": (*_ANSWERS, "chosen")}),
    ("question/answer", {"prompt": ("question", "problem"), "completion": ("answer", *_ANSWERS, "sql", "query")}),
    ("question/answer", {"prompt": ("query",), "completion": ("answer", *_ANSWERS, "sql")}),
    (
        "input/output",
        {
            "prompt": ("input", "inputs", "source", "user", "human", "input_text", "source_text", "src"),
            "completion": (
                "output", "target", "targets", "assistant", "bot", "response", "output_text", "target_text", "tgt",
            ),
        },
    ),
    ("mr/ref", {"prompt": ("mr", "meaning_representation"), "completion": ("ref", "human_reference", "reference")}),
    ("text/code", {"prompt": ("text", "description", "docstring"), "completion": ("code", "program")}),
    ("translation", {"translation": ("translation",)}),
    (
        "turns",
        {"speaker": ("role", "from", "speaker"), "said": ("content", "value", "text", "message")},
    ),
    ("pair/label", {"text": ("premise", "sentence1", "question1", "text_a", "text1"), "label": ("label", "labels")}),
    (
        CLASSIFICATION,
        {
            "text": (
                "text", "sentence", "review", "content", "comment", "tweet", "headline", "utterance", "message", "post",
                "document", "description", "body", "title", "abstract", "email", "review_body", "review_text",
                "question", "query", "input", "prompt",
            ),
            "label": (
                "label", "labels", "class", "category", "sentiment", "topic", "intent", "emotion", "target", "genre",
                "tag", "polarity", "rating", "stars", "spam", "toxic", "star_rating",
            ),
        },
    ),
    ("text", {"text": ("text", "content")}),
)  # fmt: skip
_SECOND = {
    "premise": "hypothesis", "sentence1": "sentence2", "question1": "question2", "text_a": "text_b", "text1": "text2",
}  # fmt: skip
"""Column of the first text → column of the second, for labels of pairs of texts."""
_BESIDE: dict[str, tuple[str, ...]] = {
    "system": ("system", "system_prompt", "system_message", "system_instruction", "systeminstruction", "persona"),
    "history": ("history",),
    "context": (
        "context", "passage", "schema", "document", "article", "paragraph", "background", "evidence", "knowledge",
        "support", "contexts", "passages", "documents",
    ),
    "rating": (
        "label", "rating", "kto_tag", "feedback", "thumbs", "is_good", "desirable", "accepted", "is_correct", "correct",
        "quality", "score", "weight",
    ),
    "rejected": ("rejected",),
}  # fmt: skip
"""Role → names of columns that may accompany question and answer."""
_LANGUAGES = frozenset(
    "en de fr es it pt nl sv da nb nn fi pl cs sk sl hr sr bg ru uk be lt lv et hu ro el tr ar he fa hi bn ur ta te th "
    "vi ms zh ja ko sw yo zu xh eo ga cy eu ca gl mk ka hy az kk uz english german french spanish italian portuguese "
    "dutch swedish polish russian ukrainian turkish arabic hindi chinese japanese korean".split()
)
"""Names of columns, one a language, that hold the same text."""
_CONVERSATION_IDS = (
    "conversation_id", "conv_id", "chat_id", "dialog_id", "dialogue_id", "thread_id", "session_id", "conversation",
)  # fmt: skip
_EXPECTED = (
    "messages; prompt and completion; instruction, input and output; question and answer; input and output; "
    "mr and ref; text and label; or text"
)


@dataclass(frozen=True)
class Layout:
    """Which column plays which role.

    Attributes:
        kind: 'messages', 'question/answer', ..., 'chosen' for the user's own mapping, '' if no layout fits.
        roles: role → column name. Besides `ROLES`, which a user can give, there are roles that are only detected:
            rating (whether a row is good), rejected (an answer not to learn), options or option 1, option 2, ...
            (answers to choose from), translation (both texts), from and to (a text in two languages), target language
            and source language, or languages (of question and answer), names (of the labels), chat (the id of a turn's
            chat), speaker and said (of one turn).
    """

    kind: str
    roles: dict[str, str]

    @property
    def classifies(self) -> bool:
        """Whether the answers are labels."""
        return "label" in self.roles


def find_layout(columns: Sequence[str], mapping: Mapping[str, str] | None, name: str, required: bool = True) -> Layout:
    """Finds the roles of the columns, or checks the user's mapping.

    Args:
        columns: the file's. mapping: role → column, None to detect. name: the file's, for messages.
        required: whether it is an error if no layout fits; else a layout without roles is returned.

    Raises:
        DataError: no layout fits; the message lists the columns and the layouts that are known.
    """
    if mapping:
        return _chosen(columns, mapping, name)
    lower = {_plain(column): column for column in reversed(columns)}
    for kind, wanted in _LAYOUTS:
        roles = _roles(wanted, lower)
        if kind == CLASSIFICATION and roles["text"] and not roles["label"]:
            roles["label"] = next((column for name, column in lower.items() if name.startswith(("is_", "has_"))), "")
        if not all(roles.values()):
            continue
        if kind == "pair/label":
            second = lower.get(_SECOND[_plain(roles["text"])], "")
            if not second:
                continue
            return Layout(CLASSIFICATION, _with_names(roles | {"input": second}, lower))
        if kind == CLASSIFICATION:
            return Layout(kind, _with_names(roles, lower))
        if kind == "turns":
            chat = next((lower[one] for one in _CONVERSATION_IDS if one in lower), "")
            return Layout(kind, roles | ({"chat": chat} if chat else {}))
        return Layout(kind, _beside(kind, roles, lower))
    languages = [column for column in columns if _plain(column) in _LANGUAGES]
    if len(languages) > 1:
        return Layout("translation", {"from": languages[0], "to": languages[1]})
    if not required:
        return Layout("", {})
    found = ", ".join(repr(column[:40]) for column in columns[:12]) or "none"
    raise DataError(
        f"{name}, line 1: the columns found are {found}; expected are {_EXPECTED}. Rename them, or say which is which."
    )


def _plain(column: str) -> str:
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def _roles(wanted: Mapping[str, Sequence[str]], lower: Mapping[str, str]) -> dict[str, str]:
    """Role → column, '' if there is none; no column plays two roles."""
    roles: dict[str, str] = {}
    for role, aliases in wanted.items():
        free = (lower[alias] for alias in aliases if alias in lower and lower[alias] not in roles.values())
        roles[role] = next(free, "")
    return roles


def _beside(kind: str, roles: dict[str, str], lower: Mapping[str, str]) -> dict[str, str]:
    """The roles, with those of further columns that belong to the chat."""
    wanted: dict[str, tuple[str, ...]] = {
        "text": {},
        "translation": {},
        "messages": {"system": _BESIDE["system"], "rating": _BESIDE["rating"]},
        "chosen/rejected": {"prompt": ("prompt", "question", "instruction", "input"), "system": _BESIDE["system"]},
    }.get(kind, _BESIDE)
    if kind in ("instruction/input/output", "prompt/completion"):
        wanted = {**wanted, "input": ("input",)}
    found = dict(roles)
    for role, aliases in wanted.items():
        column = next((lower[one] for one in aliases if one in lower and lower[one] not in found.values()), "")
        if column and role not in found:
            found[role] = column
    free = {name: column for name, column in lower.items() if column not in found.values()}
    if kind == "input/output":
        found |= language_roles(free)
    return found | option_roles(free) if kind in ("question/answer", "prompt/completion") else found


def _with_names(roles: dict[str, str], lower: Mapping[str, str]) -> dict[str, str]:
    """The roles of a classification, with the column that holds the labels' names."""
    label = _plain(roles["label"])
    aliases = (f"{label}_text", f"{label}_name", f"{label}_names", f"{label}_str", f"text_{label}", "class_name")
    names = next((lower[one] for one in aliases if one in lower and lower[one] not in roles.values()), "")
    return roles | ({"names": names} if names else {})


def _chosen(columns: Sequence[str], mapping: Mapping[str, str], name: str) -> Layout:
    for role, column in mapping.items():
        if role not in ROLES:
            raise DataError(f"{name}: {role!r} is no role of a column; the roles are {', '.join(ROLES)}.")
        if column not in columns:
            found = ", ".join(repr(entry[:40]) for entry in columns[:12])
            raise DataError(f"{name}, line 1: there is no column {column[:40]!r} for {role}; found are {found}.")
    given = set(mapping)
    allowed = next((roles for needed, roles in _MAPPINGS if needed <= given), None)
    if allowed is None:
        raise DataError(
            f"{name}: the mapping needs messages, or text, or prompt and completion; given are {sorted(given)}."
        )
    for role in ROLES:
        if role in given - allowed:
            others = ", ".join(sorted(given - {role}))
            also = ", ".join(sorted(allowed - given)) or "none"
            raise DataError(
                f"{name}: {role}={mapping[role][:40]!r} would have no effect beside {others}. Leave it out; "
                f"with these may stand {also}."
            )
    twice = next((column for column in mapping.values() if list(mapping.values()).count(column) > 1), None)
    if twice is not None:
        raise DataError(f"{name}: the column {twice[:40]!r} is given for two roles. Give each column one role.")
    roles = dict(mapping)
    if "prompt" in given:
        roles |= option_roles({_plain(column): column for column in columns if column not in mapping.values()})
    return Layout(CLASSIFICATION if "label" in given else "chosen", roles)


_MAPPINGS: tuple[tuple[set[str], set[str]], ...] = (
    ({"messages"}, {"messages", "system"}),
    ({"prompt", "completion"}, {"prompt", "completion", "input", "context", "history", "system"}),
    ({"text", "label"}, {"text", "label", "input"}),
    ({"text"}, {"text"}),
)
"""(roles that a mapping needs, roles that have an effect with them)."""
