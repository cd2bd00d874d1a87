"""Makes chat templates of thinking models ask for an answer without a thought, in training and in chat alike.

An adapter that has learned plain answers needs the same prompt in chat as in training. This module knows texts only, no
tokenizer.
"""

from __future__ import annotations

import re
from typing import Any

OPTIONS: dict[str, Any] = {"enable_thinking": False}
"""Given to every template; those of models without thoughts ignore it."""

_OPENED = re.compile(r"<(think|thinking|thought)>\s*\Z")
_EMPTY = re.compile(r"\s*<(think|thinking|thought)>\s*</\1>\s*")
_WRITTEN = re.compile(r"\s*<(think|thinking|thought)>.*?</\1>\s*", re.S)


def closed(prompt: str) -> str:
    """The prompt; if the template opens a thought in spite of OPTIONS, with that thought closed."""
    match = _OPENED.search(prompt)
    return prompt.rstrip() + f"\n\n</{match[1]}>\n\n" if match else prompt


def as_asked(text: str, prompt: str, answer: str) -> str:
    """The text of a whole chat in which the last answer follows exactly the prompt that a chat would send: if the
    template puts an empty thought into the prompt but not into a whole chat, the thought is put in here."""
    place = text.rfind(answer.strip())
    head = text[:place]
    if place < 0 or text.startswith(prompt) or not prompt.startswith(head):
        return text
    return prompt + text[place:] if _EMPTY.fullmatch(prompt[len(head) :]) else text


def thinks(template: str) -> bool:
    """Whether a chat template handles thoughts."""
    return "enable_thinking" in template or "<think" in template


def without(answer: str) -> str:
    """An answer without the thought that it begins with; unchanged if nothing else would be left."""
    match = _WRITTEN.match(answer)
    return answer[match.end() :] if match and answer[match.end() :].strip() else answer
