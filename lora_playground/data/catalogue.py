"""Lists the datasets, shipped and uploaded, and reads their rows. It knows no torch and no tokenizer.

A dataset is a folder with `card.json` and `train.jsonl`, `validation.jsonl`, `test.jsonl`. A row is
`{"messages": [{"role", "content"}, ...], "meta": {...}}`, or `{"text": "...", "meta": {...}}` for raw text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from lora_playground.assets import ASSETS
from lora_playground.errors import AssetError, ConfigError, DataError

SHIPPED = ASSETS / "datasets"
REHEARSAL = SHIPPED / "_base-skills" / "rehearsal.jsonl"
SPLITS = ("train", "validation", "test")
REBUILD = "python -m tools.embedded_model.datasets"

Row = dict[str, Any]
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class DatasetCard:
    """What the user sees of a dataset.

    Attributes:
        name: the value of `data.dataset` in a config. label: the name shown.
        description: one or two sentences.
        metric: how answers are scored (a name of `evaluation.METRICS`), or '' if they are not.
        licence: SPDX id or name, '' for uploads.
        train, validation, test: numbers of rows.
        uploaded: whether a user has uploaded it; the others are shipped with the app.
        folder: holds its files; never shown in a browser.
        extra: the other fields of `card.json`.
    """

    name: str
    label: str
    description: str
    metric: str
    licence: str
    train: int
    validation: int
    test: int
    uploaded: bool
    folder: Path
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A card and its rows."""

    card: DatasetCard
    train: list[Row]
    validation: list[Row]
    test: list[Row]


def list_datasets(home: Path | None = None) -> list[DatasetCard]:
    """Cards of the shipped datasets by name, then of the uploads in HOME/uploads, newest first.

    Damaged ones are left out, and those whose name begins with '_', which only the app itself uses.
    """
    shipped = [card for folder in _folders(SHIPPED) if (card := _card_or_none(folder, False))]
    uploads = [card for folder in _folders(home / "uploads") if (card := _card_or_none(folder, True))] if home else []
    return shipped + uploads[::-1]


def get_card(name: str, home: Path | None = None) -> DatasetCard:
    """The card of one dataset.

    Raises:
        ConfigError: there is no such dataset; the message lists those that exist.
        AssetError, DataError: it is damaged (shipped, uploaded).
    """
    if _NAME.fullmatch(name) and not name.startswith("_"):
        if (SHIPPED / name).is_dir():
            return _read_card(SHIPPED / name, False)
        if home is not None and (home / "uploads" / name / "card.json").is_file():
            return _read_card(home / "uploads" / name, True)
    known = ", ".join(card.name for card in list_datasets(home)) or "none is installed"
    raise ConfigError("data.dataset", name, f"choose one of: {known}; or upload a file first")


def get_dataset(name: str, home: Path | None = None) -> Dataset:
    """One dataset with its rows; errors as `get_card`."""
    card = get_card(name, home)
    parts = {split: read_rows(card.folder / f"{split}.jsonl", card.uploaded) for split in SPLITS}
    if not parts["train"]:
        raise _damaged(card.folder / "train.jsonl", card.uploaded, "it holds no rows")
    return Dataset(card, **parts)


def read_rows(path: Path, uploaded: bool = False) -> list[Row]:
    """The rows of a jsonl file; [] if there is no such file.

    Args:
        uploaded: whether a user has uploaded it, which decides what the error advises.

    Raises:
        AssetError, DataError: a line cannot be read (shipped, uploaded); the message names file and line.
    """
    rows: list[Row] = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict) or not (row.get("messages") or row.get("text")):
                        raise ValueError(f"line {number} has neither messages nor text")
                    rows.append(row)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, uploaded, str(error)) from error
    return rows


def rehearsal_rows() -> list[Row]:
    """Chats that the base model was trained on, mixed into training so that it forgets less; [] if there are none."""
    return read_rows(REHEARSAL)


def prompt_of(row: Row) -> list[dict[str, str]]:
    """The messages before the last assistant message: the prompt in an evaluation."""
    messages = row.get("messages") or []
    ends = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[: ends[-1]] if ends else messages


def offered_prompts(data: Dataset, count: int) -> list[list[dict[str, str]]]:
    """The prompts of the first rows of the test part, for Chat's suggestions and for the probes of a training run.

    If the test part has fewer than `count`, rows of the other parts follow.
    """
    prompts = (prompt_of(row) for row in [*data.test, *data.validation, *data.train])
    return list(islice(filter(None, prompts), count))


def answer_of(row: Row) -> str:
    """The content of the last assistant message, or the text of a raw row."""
    for message in reversed(row.get("messages") or []):
        if message["role"] == "assistant":
            return message["content"]
    return row.get("text", "")


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name[0] not in "_.")
    except OSError:
        return []


def _card_or_none(folder: Path, uploaded: bool) -> DatasetCard | None:
    try:
        return _read_card(folder, uploaded)
    except (AssetError, DataError):
        return None


def _read_card(folder: Path, uploaded: bool) -> DatasetCard:
    path = folder / "card.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        train, validation, test = (_count(str(path), _stamp(path)) for path in _split_files(folder))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, uploaded, str(error)) from error
    if not isinstance(data, dict):
        raise _damaged(path, uploaded, "it holds no JSON object")
    label = data.pop("label", None) or data.pop("title", None) or folder.name
    data.pop("name", None)
    description, metric, licence = (str(data.pop(key, "") or "") for key in ("description", "metric", "licence"))
    return DatasetCard(folder.name, str(label), description, metric, licence, train, validation, test,
                       uploaded, folder, data)  # fmt: skip


def _split_files(folder: Path) -> list[Path]:
    return [folder / f"{split}.jsonl" for split in SPLITS]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    except FileNotFoundError:
        return 0, 0


@lru_cache(maxsize=1024)
def _count(path: str, stamp: tuple[int, int]) -> int:
    """Lines of a file that are not blank. `stamp` makes a changed file miss the cache."""
    if stamp[1] == 0:
        return 0
    with open(path, "rb") as file:
        return sum(1 for line in file if line.strip())


def _damaged(path: Path, uploaded: bool, why: str) -> Exception:
    if uploaded:
        return DataError(f"The uploaded dataset's file {path.name} is damaged ({why}); upload the data again.")
    return AssetError(f"The dataset file {path} is missing or damaged ({why}); rebuild it with: {REBUILD}")
