"""The command `lessons`: lists the lessons, or prints the sheet of one. They are played on the web page only."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lora_playground.service import catalogue


def lessons(args: argparse.Namespace) -> list[dict[str, Any]] | dict[str, str]:
    """`lessons`: one row for each lesson; with `--sheet` the sheet of one of them."""
    from lora_playground.lessons.catalogue import get_lesson, problems
    from lora_playground.lessons.sheet import sheet
    from lora_playground.runs import default_home

    home = Path(args.home).expanduser() if args.home else default_home()
    for problem in problems(home):
        print(f"warning: left out: {problem}", file=sys.stderr)
    if args.sheet:
        return {"sheet": sheet(get_lesson(args.sheet, home), args.answers)}
    return catalogue.lessons(home)


def show_lessons(value: list[dict[str, Any]] | dict[str, str]) -> None:
    """Prints one line for each lesson, with what people can do afterwards; or the sheet."""
    if isinstance(value, dict):
        print(value["sheet"])
        return
    for lesson in value:
        print(f"{lesson['name']:20} {lesson['minutes']:3} min  {len(lesson['steps']):2} steps  {lesson['title']}")
        print(f"{'':20} {lesson['after']}")
