"""Gradio's inputs, made to accept what a page sends while their bounds or choices change. They know no run and no tab.

The server sets a slider's bounds and a list's choices together with their values. A page can still send a value that
fitted earlier bounds, for instance 1 when the least is 2, which Gradio answers with an error. Here such a value is
brought within the bounds, and a choice that is not offered counts as none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr


def bounds(least: float, most: float, value: float, **more: Any) -> Any:
    """An update of a slider: its bounds, and the nearest value within them.

    Gradio needs two different ends, so `most` becomes at least `least` + 1.
    """
    most = max(most, least + 1)
    return gr.update(minimum=least, maximum=most, value=min(max(value, least), most), **more)


def offer(choices: Sequence[tuple[str, Any]], value: Any, **more: Any) -> Any:
    """An update of a list: its (label, value) pairs, with `value` chosen if it is one of them, else nothing."""
    return gr.update(choices=choices, value=value if value in [one for _, one in choices] else None, **more)


def offer_one(choices: Sequence[tuple[str, Any]], value: Any) -> Any:
    """Like `offer`, with the first choice chosen if `value` is none of them."""
    values = [each for _, each in choices]
    return offer(choices, value if value in values else next(iter(values), None))


class Slider(gr.Slider):
    """A slider whose value is brought within its bounds."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """A number as it was sent, between `minimum` and `maximum`."""
        if isinstance(payload, int | float):
            payload = min(max(payload, self.minimum), self.maximum)
        return super().preprocess(payload)


class Dropdown(gr.Dropdown):
    """A list in which a value that is not offered counts as nothing chosen."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The chosen value, or None."""
        return super().preprocess(payload if self.allow_custom_value else _offered(self, payload))


class Judged(gr.Dropdown):
    """A list for an option of the schema, which passes on every value, since the schema checks it."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The value as it was sent."""
        return payload


class Radio(gr.Radio):
    """Buttons of which one is chosen; a value that is not offered counts as none."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The chosen value, or None."""
        return super().preprocess(_offered(self, payload))


class CheckboxGroup(gr.CheckboxGroup):
    """Boxes of which several are ticked; values that are not offered are left out."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The ticked values."""
        return super().preprocess(_offered(self, payload or []))


def _offered(part: Dropdown | Radio | CheckboxGroup, payload: Any) -> Any:
    values = [value for _, value in part.choices]
    if isinstance(payload, list):
        return [one for one in payload if one in values]
    return payload if payload in values else None
