"""Texts in two languages: finds the direction of a row's translation, and words the instruction.

It knows records and the roles of their columns; no file formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lora_playground.data.values import RowError, text_of, unpacked

_ORIGINS = ("source", "src", "from", "original")
_GOALS = ("target", "tgt", "trg", "to")
_FORMS = ("{}_lang", "{}_language", "{}lang", "{}language", "lang_{}", "language_{}", "{}_lang_code")
_PAIRS = ("lang_pair", "language_pair", "langpair", "lang_pairs", "translation_direction")
_TO = re.compile(r"\s*([^\W\d_]\w*?)\s*(?:[-–—=]*>|→|-|–|/|:|\bto\b|2)\s*([^\W\d_]\w*)\s*")


def language_roles(lower: Mapping[str, str]) -> dict[str, str]:
    """The columns that name the languages of a row's two texts.

    Args:
        lower: the column's name in lower case, with underscores for spaces → column.

    Returns:
        Role → column: 'target language' and perhaps 'source language', or 'languages' for a column with both ('de-en').
    """
    names = {role: [form.format(one) for one in ones for form in _FORMS]
             for role, ones in (("source language", _ORIGINS), ("target language", _GOALS))}  # fmt: skip
    found = {role: column for role, ones in names.items() if (column := next(filter(None, map(lower.get, ones)), ""))}
    if "target language" in found:
        return found
    both = next((lower[name] for name in _PAIRS if name in lower), "")
    return {"languages": both} if both else {}


class Translations:
    """Words the instruction of rows with texts in two languages. If a row holds both languages in one object, the first
    row's direction holds for all.

    Args:
        roles: role → column.
    """

    def __init__(self, roles: Mapping[str, str]) -> None:
        self.roles = roles
        self._first: tuple[str, str] | None = None

    def asked(self, record: Mapping[str, Any]) -> str:
        """The line with the direction of the translation; '' if the file has no column for it. Raises RowError if the
        file has one and this row does not."""
        if "languages" in self.roles:
            column = self.roles["languages"]
            match = _TO.fullmatch(str(record.get(column)))
            if match is None:
                raise RowError(f"{column[:40]!r} must say which way to translate, such as 'de-en'.")
            return f"Translate from {match[1]} to {match[2]}:"
        if "target language" not in self.roles:
            return ""
        said = "Translate"
        for word, role in (("from", "source language"), ("to", "target language")):
            if role in self.roles:
                said += f" {word} {text_of(record.get(self.roles[role]), self.roles[role]).strip()}"
        return f"{said}:"

    def pair(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
        """({language: text}, source, target) of a row that holds both texts in one object, or in a column for each
        language. Raises RowError if there are not two."""
        column = self.roles.get("translation", "translation")
        pair = unpacked(record.get(column))
        if "from" in self.roles:
            pair = {name: record.get(name) for name in (self.roles["from"], self.roles["to"])}
        if isinstance(pair, dict) and set(pair) == {"language", "translation"} and isinstance(pair["language"], list):
            pair = dict(zip(pair["language"], pair["translation"]))
        if not isinstance(pair, dict) or len(pair) < 2:
            raise RowError(f"{column[:40]!r} must hold one text for each of two languages.")
        if self._first is None or not set(self._first) <= set(pair):
            source, target = list(pair)[:2]
            self._first = self._first or (source, target)
            return pair, source, target
        return pair, *self._first
