"""Renders chat templates as transformers does, without transformers: for the web process, which does not import it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

_OPEN, _CLOSE = "\ue0b1", "\ue0b2"
"""Characters of the private use area: they mark, while rendering, what stands between the generation tags."""


class _GenerationTags(Extension):
    """The tags `{% generation %}` and `{% endgeneration %}`, between which a template puts what a model has written."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return _OPEN + caller() + _CLOSE


def render(template: str, messages: Sequence[dict[str, Any]], **given: Any) -> tuple[str, list[tuple[int, int]]]:
    """(text, spans of characters that stand between generation tags) of a chat; raises what the template raises.

    Args:
        given: further names that the template may use, such as `bos_token` and `add_generation_prompt`.
    """
    turns = [{key: value for key, value in turn.items() if value is not None} for turn in messages]
    pieces = _compiled(template).render(messages=turns, tools=None, documents=None, **given)
    text, spans, start = "", list[tuple[int, int]](), 0
    for part in pieces.replace(_CLOSE, _OPEN + _CLOSE).split(_OPEN):
        if part.startswith(_CLOSE):
            spans.append((start, len(text)))
            part = part[1:]
        start = len(text)
        text += part
    return text, [span for span in spans if span[1] > span[0]]


@lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTags, loopcontrols]
    )
    environment.filters["tojson"] = _as_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _as_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **others: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **others)
