"""Analyses a model's chat template by rendering conversations with it: where the answers stand in the text, which
tokens end them, and whether there is a place for a system text.

It has no list of known templates or marks. If a template has `{% generation %}` tags, the text between them is the
answer. It knows no models, no rows and no training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from lora_playground.templates import thinking_tags
from lora_playground.templates.special_tokens import special_tokens

Turn = dict[str, Any]
Span = tuple[int, int]
"""(first character, the one behind the last) in a rendered text."""

_TAGS = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateRefusal(Exception):
    """Why a template cannot make a text of a chat, or why its answers cannot be found in it."""


@dataclass(frozen=True)
class Conventions:
    """What a template does alike with every chat.

    Attributes:
        system: when it renders a system text: 'always'; 'asked' only if the assistant is to speak next (the system
            text is missing once the answer is there); or '' never.
        lead: text that the model has to write itself between the prompt and the answer: often a space.
        ends: texts that end an answer, the longest first; empty if the template has none.
        closes: whether the last answer of a chat has such an end; if not, the end-of-sequence token is appended.
        stops: ids of the tokens that end an answer; generation stops at them.
    """

    system: str
    lead: str
    ends: tuple[str, ...]
    closes: bool
    stops: frozenset[int]


@dataclass(frozen=True)
class Rendered:
    """A whole chat as text.

    Attributes:
        text: as the template renders it, with an end-of-sequence token if it has no end for the last answer.
        learned: spans of the answers, each with the text that ends it.
        unended: the number of answers that no token ends.
        closed: whether an end-of-sequence token was appended.
        moved: whether the system text was put into the first user turn.
        changed: the number of answers that the template alters, white space aside.
    """

    text: str
    learned: list[Span]
    unended: int
    closed: bool
    moved: bool
    changed: int = 0


def prompt(tokenizer: Any, chat: Sequence[Turn]) -> str:
    """The text up to where the assistant begins to speak. A system text for which the template has no place is put at
    the beginning of the first user turn. Raises whatever the template raises."""
    return _render(tokenizer, _with_system_moved(tokenizer, chat)[0], prompt=True)


def whole(tokenizer: Any, chat: Sequence[Turn]) -> Rendered:
    """Renders a chat that ends with an answer, for training.

    Raises:
        TemplateRefusal: the template cannot render the chat, or the answers cannot be found in the text.
    """
    try:
        known = conventions(tokenizer)
        chat, moved = _with_system_moved(tokenizer, chat)
        if any(turn["role"] == "tool" or "tool_calls" in turn for turn in chat):
            return _with_tools(tokenizer, known, chat, _render_whole(tokenizer, chat, known), moved)
        if _TAGS.search(tokenizer.chat_template) and not thinking_tags.thinks(tokenizer.chat_template):
            text, tagged = _tagged(tokenizer, chat)
            if (
                tagged
                and text.startswith(prompt(tokenizer, chat[:-1]))
                and all(turn.get("weight") != 0 for turn in chat)
            ):
                _between_turns(tokenizer, known, chat)
                return _ended(tokenizer, known, text, tagged, moved, changed=_changed(chat, text, tagged))
        text = _render_whole(tokenizer, chat, known)
        places = _answers(tokenizer, known, chat, text)
    except TemplateRefusal:
        raise
    except Exception as error:  # a template is a program of the model's authors and may raise anything
        raise TemplateRefusal(str(error)[:200] or type(error).__name__) from error
    spans = [_with_lead(known, text, place) for turn, place in places if turn.get("weight") != 0]
    changed = _changed(chat, text, [place for _, place in places])
    return _ended(tokenizer, known, text, spans, moved, places[-1][0].get("weight") != 0, changed)


def stop_tokens(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that end an answer in this tokenizer's template; empty if it has no template."""
    return conventions(tokenizer).stops if getattr(tokenizer, "chat_template", None) else frozenset()


# --------------------------------------------------------------------------------------------------- rendering


def _render(tokenizer: Any, chat: Sequence[Turn], prompt: bool = False) -> str:
    options = {"add_generation_prompt": prompt, **thinking_tags.OPTIONS}
    text = tokenizer.apply_chat_template(_as_taken(tokenizer, chat), tokenize=False, **options)
    return thinking_tags.closed(text) if prompt else text


_IN_PARTS: WeakKeyDictionary[Any, tuple[str, bool]] = WeakKeyDictionary()


def _as_taken(tokenizer: Any, chat: Sequence[Turn]) -> list[Turn]:
    """The chat in the form that the template accepts: templates of vision models often take a turn's content only as a
    list of parts."""
    template, in_parts = _IN_PARTS.get(tokenizer, ("", False))
    if template != tokenizer.chat_template:
        in_parts = not _reads(tokenizer, _sentinel(0)) and _reads(tokenizer, _in_parts(_sentinel(0)))
        _IN_PARTS[tokenizer] = tokenizer.chat_template, in_parts
    return [{**turn, "content": _in_parts(turn["content"])} for turn in chat] if in_parts else list(chat)


def _in_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _reads(tokenizer: Any, content: Any) -> bool:
    try:
        text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except Exception:  # templates may raise anything
        return False
    return _sentinel(0) in text


def _render_whole(tokenizer: Any, chat: Sequence[Turn], known: Conventions | None = None) -> str:
    """Renders a chat so that its last answer follows exactly the prompt that would be sent for it. Templates may render
    a prompt differently from the same turns within a chat: with an empty thought, a system text or the number of turns
    added, or without the text that ends the question. `known` is None while the conventions are being found."""
    text = _render(tokenizer, chat)
    if thinking_tags.thinks(tokenizer.chat_template):
        return thinking_tags.as_asked(text, _render(tokenizer, chat[:-1], prompt=True), chat[-1]["content"])
    if known is None:
        return text
    asked = _render(tokenizer, chat[:-1], prompt=True)
    if text.startswith(asked):
        return text
    place = text.rfind(chat[-1]["content"].strip())
    if place < 0:  # the template writes it in a way of its own
        before, _, behind = _render(tokenizer, [*chat[:-1], {**chat[-1], "content": _sentinel(0)}]).partition(
            _sentinel(0)
        )
        place = len(before) if text.startswith(before) and text.endswith(behind) else -1
    return text if place < 0 else asked + known.lead + text[place:]


def _tagged(tokenizer: Any, chat: Sequence[Turn]) -> tuple[str, list[Span]]:
    """A chat and the spans between its generation tags."""
    if hasattr(tokenizer, "render_tagged"):
        text, spans = tokenizer.render_tagged(_as_taken(tokenizer, chat), **thinking_tags.OPTIONS)
        return str(text), list(spans)
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, found = render_jinja_template(
        conversations=[
            [{key: value for key, value in turn.items() if value is not None} for turn in _as_taken(tokenizer, chat)]
        ],
        chat_template=tokenizer.chat_template,
        return_assistant_tokens_mask=True,
        **{**tokenizer.special_tokens_map, **thinking_tags.OPTIONS},
    )
    return texts[0], [(start, end) for start, end in found[0] if end > start]


def _with_system_moved(tokenizer: Any, chat: Sequence[Turn]) -> tuple[list[Turn], bool]:
    """(the chat, whether its system text had to be put into the first user turn)."""
    chat = list(chat)
    if len(chat) < 2 or chat[0]["role"] != "system" or conventions(tokenizer).system:
        return chat, False
    first = {**chat[1], "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}
    return [first, *chat[2:]], True


# -------------------------------------------------------------------------------------------------- conventions

_KNOWN: WeakKeyDictionary[Any, tuple[str, Conventions]] = WeakKeyDictionary()


def conventions(tokenizer: Any) -> Conventions:
    """The conventions of the tokenizer's template; found once per tokenizer and kept."""
    template, found = _KNOWN.get(tokenizer, ("", None))
    if found is None or template != tokenizer.chat_template:
        found = _found(tokenizer)
        _KNOWN[tokenizer] = tokenizer.chat_template, found
    return found


def _sentinel(number: int) -> str:
    return f"Zq{number}qZ"


def _found(tokenizer: Any) -> Conventions:
    roles = ("user", "assistant", "user", "assistant")
    chat = [{"role": role, "content": _sentinel(number)} for number, role in enumerate(roles)]
    one, tail = _tail(tokenizer, chat[:2])
    two, _ = _tail(tokenizer, chat)
    middle = ""
    if _sentinel(1) in two and _sentinel(2) in two:
        middle = two.split(_sentinel(1), 1)[1].split(_sentinel(2), 1)[0]
    marks = _marks(tokenizer)
    alternatives = "|".join(map(re.escape, marks)) or r"(?!)"
    last = _through(rf"(?:{alternatives})+", tail)
    # What ends an answer within a chat is what it shares with the last one, else the first mark behind it.
    shared = next((n for n, (a, b) in enumerate(zip(tail, middle)) if a != b), min(len(tail), len(middle)))
    within = _through(rf"(?:{alternatives})+", tail[:shared]) or _through(alternatives, middle)
    ends = tuple(sorted({last, within} - {""}, key=len, reverse=True))
    stops = {marks[mark] for end in ends for mark in re.findall(alternatives, end)}
    told = [{"role": "system", "content": _sentinel(9)}, *chat[:2]]
    system = "always" if _sentinel(9) in _or_nothing(tokenizer, told) else ""
    if not system and _sentinel(9) in _or_nothing(tokenizer, told[:2], prompt=True):
        system = "asked"
    asked = _or_nothing(tokenizer, chat[:1], prompt=True)
    lead = one[len(asked) :].split(_sentinel(1))[0] if asked and one.startswith(asked) else ""
    return Conventions(system, lead, ends, bool(last), frozenset(stops))


def _tail(tokenizer: Any, chat: list[Turn]) -> tuple[str, str]:
    """(the chat as text, the text after its last answer); two empty texts if the template refuses it."""
    text = _or_nothing(tokenizer, chat)
    return text, text.rpartition(chat[-1]["content"])[2] if chat[-1]["content"] in text else ""


def _or_nothing(tokenizer: Any, chat: list[Turn], prompt: bool = False) -> str:
    try:
        return _render(tokenizer, chat, prompt=True) if prompt else _render_whole(tokenizer, chat)
    except Exception:  # templates may raise anything, as those without a place for a system text do
        return ""


def _through(pattern: str, text: str) -> str:
    """The text up to the end of the first match, '' if there is none."""
    match = re.search(pattern, text)
    return text[: match.end()] if match else ""


def _marks(tokenizer: Any) -> dict[str, int]:
    """Tokens that can end an answer, and their ids, the longest first: added ones, special or not, but white space."""
    added = tokenizer.get_added_vocab()
    marks = {text: number for text, number in added.items() if text.strip() and len(text) > 1}
    if tokenizer.eos_token:
        marks[str(tokenizer.eos_token)] = tokenizer.eos_token_id
    return dict(sorted(marks.items(), key=lambda mark: (-len(mark[0]), mark[0])))


# ------------------------------------------------------------------------------------------------------- answers


def _answers(tokenizer: Any, known: Conventions, chat: Sequence[Turn], text: str) -> list[tuple[Turn, Span]]:
    """(turn, span of its content) of each answer, found by rendering the chat once more with other contents.

    Raises:
        TemplateRefusal: a turn is not in the text, or an answer's place is ambiguous.
    """
    first, order, between = _between_turns(tokenizer, known, chat)
    places: dict[int, Span] = {}
    place = len(first) if text.startswith(first) else -1
    for number, behind in zip(order, between):
        content = _as_rendered(chat[number]["content"], text, place, behind) if place >= 0 else None
        if content is None:
            place = -1
            break
        places[number] = place, place + len(content)
        place += len(content) + len(behind)
    answers = [number for number, turn in enumerate(chat) if turn["role"] == "assistant"]
    if place != len(text):  # the template changes a content in a way of its own
        places = {number: _replaced(tokenizer, known, chat, number, text) for number in answers}
        _refuse_made_marks(tokenizer, text, "".join([first, *between]))
    return [(chat[number], places[number]) for number in answers]


def _between_turns(tokenizer: Any, known: Conventions, chat: Sequence[Turn]) -> tuple[str, list[int], list[str]]:
    """(the text before the first turn, the turns' numbers in the order of the text, the text after each).

    Raises:
        TemplateRefusal: a turn is missing, or they are in another order.
    """
    others = [{**turn, "content": _sentinel(number)} for number, turn in enumerate(chat)]
    first, *rest = re.split(r"Zq(\d+)qZ", _render_whole(tokenizer, others, known))
    order, between = [int(number) for number in rest[::2]], rest[1::2]
    for number, turn in enumerate(chat):
        if order.count(number) != 1 and (turn["role"] == "assistant" or number not in order):
            what = "leaves out, or rewrites," if number not in order else "repeats"
            raise TemplateRefusal(f"its template {what} the {turn['role']}'s turn {number + 1}")
    said = [number for number in order if chat[number]["role"] != "system"]
    if said != sorted(said):
        raise TemplateRefusal("its template puts the turns into another order")
    return first, order, between


def _refuse_made_marks(tokenizer: Any, text: str, around: str) -> None:
    """Raises TemplateRefusal if a template that rewrites contents has turned written text into a special token.

    Args:
        text: the chat. around: all that the template itself puts into it.
    """
    for mark in special_tokens(tokenizer):
        if text.count(mark) > around.count(mark):
            raise TemplateRefusal(f"its template makes the special token {mark} of what is written in it")


def _changed(chat: Sequence[Turn], text: str, places: Sequence[Span]) -> int:
    """How many answers the template alters, white space aside."""
    said = ["".join(turn["content"].split()) for turn in chat if turn["role"] == "assistant"]
    shown = ["".join(text[start:end].split()) for start, end in places]
    return sum(one not in other for one, other in zip(said, shown)) if len(said) == len(shown) else 0


def _as_rendered(content: str, text: str, place: int, behind: str) -> str | None:
    """The content as it stands at a place of the text, where `behind` follows it; templates may strip white space."""
    for form in (content, content.strip(), content.rstrip(), content.lstrip(), content.strip("\n")):
        if text.startswith(form, place) and text.startswith(behind, place + len(form)):
            return form
    return None


def _replaced(tokenizer: Any, known: Conventions, chat: Sequence[Turn], number: int, text: str) -> Span:
    """The span of an answer: the part of the text that changes when this answer alone is replaced."""
    others = [{**turn, "content": _sentinel(number)} if turn is chat[number] else turn for turn in chat]
    before, found, behind = _render_whole(tokenizer, others, known).partition(_sentinel(number))
    if not found or not text.startswith(before) or not text.endswith(behind) or len(before + behind) > len(text):
        raise TemplateRefusal(f"the place of the answer in turn {number + 1} cannot be told in its template")
    return len(before), len(text) - len(behind)


def _with_lead(known: Conventions, text: str, place: Span) -> Span:
    start, end = place
    return (start - len(known.lead) if known.lead and text[:start].endswith(known.lead) else start), end


def _ended(
    tokenizer: Any,
    known: Conventions,
    text: str,
    spans: list[Span],
    moved: bool,
    closing: bool = True,
    changed: int = 0,
) -> Rendered:
    """Extends the spans of the answers to the text that ends each. If the template has no end for the last answer, the
    end-of-sequence token is appended; `closing`: whether the last span is the chat's last answer."""
    learned, unended, closed = list[Span](), 0, False
    for number, (start, end) in enumerate(spans, 1):
        follows = next((mark for mark in known.ends if text.startswith(mark, end)), "")
        inside = any(mark.strip() in text[start:end] for mark in known.ends)
        if follows or inside:
            end += len(follows)
        elif closing and number == len(spans) and not known.closes:
            text += tokenizer.eos_token
            end, closed = len(text), True
        else:
            unended += 1
        learned.append((start, end))
    return Rendered(text, learned, unended, closed, moved, changed)


def _with_tools(tokenizer: Any, known: Conventions, chat: Sequence[Turn], text: str, moved: bool) -> Rendered:
    """A chat with calls of tools: the span of each assistant turn goes from its prompt to the first end after it."""
    learned: list[Span] = []
    for number, turn in enumerate(chat):
        if turn["role"] == "assistant":
            asked = _render(tokenizer, chat[:number], prompt=True)
            ends = [text.find(mark, len(asked)) + len(mark) for mark in known.ends if mark in text[len(asked) :]]
            if not text.startswith(asked) or not ends:
                raise TemplateRefusal("its template does not show where calls of tools begin and end")
            said = text[len(asked) : min(ends)]
            wanted = [turn["content"].strip()]
            for call in turn.get("tool_calls", ()):
                wanted += [call["function"]["name"], *map(str, call["function"]["arguments"])]
            if not all(part in said for part in wanted):
                raise TemplateRefusal("its template does not know calls of tools")
            if turn.get("weight") != 0:
                learned.append((len(asked), min(ends)))
        elif turn["content"].strip() not in text:
            raise TemplateRefusal(f"its template leaves out the {turn['role']}'s turn {number + 1}")
    return Rendered(text, learned, 0, False, moved)
