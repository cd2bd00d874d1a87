"""Operations that list lessons and claims. Part of `operations`. Lessons are played on the web page only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_playground.errors import ConfigError
from lora_playground.lessons.catalogue import get_lesson
from lora_playground.lessons.sheet import sheet
from lora_playground.service import catalogue
from lora_playground.service.values import words


class Learning:
    """Operations that list lessons and claims.

    Attributes:
        home: its folder `lessons` may have further lessons.
    """

    home: Path

    def list_lessons(self, who: str) -> list[dict[str, Any]]:
        """Lists the lessons, which people play on the page: minutes, what one can do after each, steps and runs."""
        return catalogue.lessons(self.home)

    def lesson_sheet(self, who: str, name: str, answers: bool = False) -> dict[str, Any]:
        """Gives a lesson's questions as a sheet in Markdown.

        Args:
            name: as list_lessons has it.
            answers: with what came out, for the teacher.
        """
        if not isinstance(answers, bool):
            raise ConfigError("answers", answers, "give true or false")
        return {"sheet": sheet(get_lesson(words("name", name, 80), self.home), answers)}

    def list_claims(self, who: str) -> list[dict[str, Any]]:
        """Lists what papers claim, with what was measured here on both sides, and the verdict."""
        return catalogue.claims()
