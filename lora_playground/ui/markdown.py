"""Markdown as HTML, without raw HTML. Formulas between dollar signs become spans, which the page renders. No Gradio."""

from __future__ import annotations

import re
from collections.abc import Callable

from markdown_it import MarkdownIt

from lora_playground.ui.words import escape

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
_KEPT = re.compile("\ue000(\\d+)\ue001")
_READER = MarkdownIt("commonmark", {"html": False}).enable("table")


def as_html(text: str) -> str:
    """A text with paragraphs, lists and tables."""
    return _render(text, _READER.render)


def as_line(text: str) -> str:
    """One line with emphasis and formulas, without a paragraph around it."""
    return _render(text, _READER.renderInline)


def _render(text: str, render: Callable[[str], str]) -> str:
    formulas: list[str] = []

    def keep(match: re.Match[str]) -> str:
        display = match[1] is not None
        kind = "lp-tex display" if display else "lp-tex"
        formulas.append(f'<span class="{kind}">{escape((match[1] or match[2]).strip())}</span>')
        return f"\ue000{len(formulas) - 1}\ue001"

    made = render(_FORMULA.sub(keep, text.replace("\ue000", "").replace("\ue001", "")))
    return _KEPT.sub(lambda match: formulas[int(match[1])], made)
