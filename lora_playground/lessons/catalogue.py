"""Finds and reads lessons: the files that ship with the app, and those in `HOME/lessons`."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import lora_playground.variants  # noqa: F401  (a lesson's configs are read by the variants' schemas)
from lora_playground.assets import ASSETS
from lora_playground.errors import ConfigError, LessonError
from lora_playground.lessons.schema import Lesson

SHIPPED = ASSETS / "lessons"


def list_lessons(home: Path | None = None) -> list[Lesson]:
    """All readable lessons, sorted by `order`. One under `HOME/lessons` replaces a shipped one of the same name. Files
    that cannot be read are left out (`problems` says why)."""
    found: dict[str, Lesson] = {}
    for path in _files(home):
        try:
            found[path.stem] = read(path)
        except LessonError:
            continue
    return sorted(found.values(), key=lambda lesson: (lesson.order, lesson.name))


def problems(home: Path | None = None) -> list[str]:
    """One sentence for each file that cannot be read as a lesson."""
    found = []
    for path in _files(home):
        try:
            read(path)
        except LessonError as error:
            found.append(str(error))
    return found


def get_lesson(name: str, home: Path | None = None) -> Lesson:
    """The lesson of that name. Raises LessonError if there is none, or its file is wrong."""
    for path in reversed(_files(home)):
        if path.stem == name:
            return read(path)
    known = ", ".join(lesson.name for lesson in list_lessons(home))
    raise LessonError(f"There is no lesson {name!r}; there are {known}.")


def read(path: Path) -> Lesson:
    """Reads and checks one file. Raises LessonError, which names the file, the place in it and what is allowed."""
    try:
        stamp = path.stat()
    except OSError as error:
        raise LessonError(f"{path} cannot be read ({error.strerror}).") from error
    return _read(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=128)
def _read(path: Path, changed: int, size: int) -> Lesson:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LessonError(f"{path.name} is no TOML file ({error}).") from error
    return parse(data, path.stem, path.name)


def parse(data: dict[str, Any], name: str, where: str) -> Lesson:
    """Makes a lesson of the data of its file.

    Args:
        data: as read from TOML. name: of the lesson. where: the file's name, for errors.

    Raises:
        LessonError: something in it is not allowed.
    """
    try:
        lesson = Lesson.model_validate({**data, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise LessonError(f"{where}: {place or 'lesson'}: {first['msg'].removeprefix('Value error, ')}.") from error
    for key, run in lesson.runs.items():
        try:
            config = run.run_config()
        except ConfigError as error:
            raise LessonError(f"{where}: runs.{key}: {error}") from error
        if config.training.open_ended:
            raise LessonError(f"{where}: runs.{key}: a lesson's run has fixed steps, no seconds and no early stop.")
    return lesson


def _files(home: Path | None) -> list[Path]:
    folders = [SHIPPED] if home is None else [SHIPPED, home / "lessons"]
    return [path for folder in folders for path in sorted(folder.glob("*.toml"))]
