"""Makes inputs from the options of the schema, and plain data from the values of the inputs.

No option and no variant is named here: every option that `config.options` yields becomes an input, with its bounds in
the help text. The schema alone checks values, so that form, file and command line give the same errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gradio as gr

from lora_playground.config import Option, options
from lora_playground.ui.controls import Judged
from lora_playground.variants import VARIANTS

_Key = tuple[str, str, tuple[str, ...], float | None, float | None, bool]


def title(option: Option) -> str:
    """The label of an option's input: 'Learning rate' for training.learning_rate."""
    words = option.path.rsplit(".", 1)[-1].replace("_", " ")
    return words[:1].upper() + words[1:]


def limits(option: Option) -> str:
    """The bounds in words: '1 to 4096', 'above 0', or nothing."""
    low, high = (None if bound is None else _plain(bound) for bound in (option.low, option.high))
    if low is not None and high is not None:
        return f"{'above ' if option.low_open else ''}{low} to {high}"
    if low is not None:
        return f"above {low}" if option.low_open else f"at least {low}"
    return f"at most {high}" if high is not None else ""


def _plain(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def help_text(option: Option) -> str:
    """The option's description, with its bounds in brackets."""
    bounds = limits(option) if option.kind in ("int", "float") else ""
    return f"{option.description} [{bounds}]" if bounds else option.description


def field(option: Option, **more: Any) -> gr.components.Component:
    """The input for one option, holding its default."""
    common: dict[str, Any] = {"label": title(option), "info": help_text(option), "elem_id": f"lp-{_slug(option.path)}"}
    common |= more
    if option.kind in ("int", "float") and not option.optional:
        return gr.Number(option.default, **common)
    if option.kind in ("int", "float"):
        # A gr.Number shows an empty value as 0, which is another value.
        return gr.Textbox(_text(option.default), max_lines=1, placeholder="empty", **common)
    if option.kind == "bool":
        return gr.Checkbox(bool(option.default), **common)
    if option.kind == "choice":
        return Judged(list(option.choices), value=option.default, filterable=False, **common)
    return gr.Textbox(_text(option.default), max_lines=1, **common)


def _slug(path: str) -> str:
    return path.replace(".", "-").replace("_", "-")


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def plain(option: Option, value: Any) -> Any:
    """The value of an input in the type that the schema expects. One that cannot be converted is returned unchanged,
    and the schema refuses it."""
    if value is None or (isinstance(value, str) and not value.strip() and option.kind != "str"):
        return None
    if option.kind in ("int", "float") and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if option.kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    if option.kind == "list" and isinstance(value, str):
        text = value.strip()
        return text if text in option.choices else [part.strip() for part in text.split(",") if part.strip()]
    if option.kind == "str" and isinstance(value, str):
        return value.strip() or (None if option.optional else "")
    return value


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """{'training.steps': 3} as {'training': {'steps': 3}}."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, leaf = path.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    return tree


class Fields:
    """Inputs for the given options, in the schema's order.

    Attributes:
        inputs: option path → component.
    """

    def __init__(self, chosen: Iterable[Option]) -> None:
        self._options = {option.path: option for option in chosen}
        self.inputs = {path: field(option) for path, option in self._options.items()}

    def read(self, given: Mapping[Any, Any]) -> dict[str, Any]:
        """Option path → value, from what Gradio hands to a listener (component → value)."""
        return {
            path: plain(option, given[self.inputs[path]])
            for path, option in self._options.items()
            if self.inputs[path] in given
        }


class VariantFields:
    """One input for every different option of all variants; those of the chosen variant are visible.

    An option that many variants share, such as alpha, has one input, which is set to the chosen variant's default.
    """

    def __init__(self, placed: Sequence[str], chosen: str | None = None) -> None:
        self._placed = set(placed)
        owners: dict[_Key, Option] = {}
        for variant in VARIANTS.values():
            for option in self._options(variant.name):
                owners.setdefault(self._key(option), option)
        self._keys = list(owners)
        shown = {self._key(option): option for option in self._options(chosen)} if chosen else {}
        self.inputs = {
            key: field(
                shown.get(key, option),
                visible=key in shown,
                elem_id=f"lp-variant-{_slug(option.path)}-{number}",
            )
            for number, (key, option) in enumerate(owners.items())
        }

    def _options(self, name: str) -> list[Option]:
        return [option for option in options(VARIANTS[name].config) if option.path not in self._placed]

    @staticmethod
    def _key(option: Option) -> _Key:
        return option.path, option.kind, option.choices, option.low, option.high, option.optional

    def components(self) -> list[gr.components.Component]:
        """All inputs, in the order in which `show` yields their updates."""
        return [self.inputs[key] for key in self._keys]

    def show(self, name: str) -> list[Any]:
        """Updates that leave the inputs of one variant visible, holding its defaults."""
        mine = {self._key(option): option for option in self._options(name)}
        updates = []
        for key in self._keys:
            option = mine.get(key)
            if option is None:
                updates.append(gr.update(visible=False))
            else:
                written = option.kind in ("str", "list") or (option.optional and option.kind in ("int", "float"))
                value = _text(option.default) if written else option.default
                updates.append(gr.update(visible=True, value=value, info=help_text(option)))
        return updates

    def place(self, name: str, options: Mapping[str, Any]) -> dict[gr.components.Component, Any]:
        """{input: value} for options of one variant, given as {'variant.alpha': 16}."""
        if name not in VARIANTS:
            return {}
        paths = {f"variant.{option.path}": self.inputs[self._key(option)] for option in self._options(name)}
        return {paths[path]: value for path, value in options.items() if path in paths}

    def read(self, name: str, given: Mapping[Any, Any]) -> dict[str, Any]:
        """Option path → value for one variant."""
        return {
            option.path: plain(option, given[self.inputs[self._key(option)]])
            for option in self._options(name)
            if self.inputs[self._key(option)] in given
        }
