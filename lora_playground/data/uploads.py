"""Stores an uploaded file as a dataset: splits its rows by a seed and writes them under a generated id.

It knows no torch and no tokenizer. The file's own name is only shown, never used as a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from lora_playground.data.catalogue import SPLITS, DatasetCard, Row, answer_of, get_card, list_datasets, prompt_of
from lora_playground.data.classification import METRIC, held_out, is_classified
from lora_playground.data.readers import Reading, read_file
from lora_playground.errors import DataError
from lora_playground.wording import counted

MAX_HELD_OUT = 500
BY_ANSWER = ("exact", METRIC, "contains", "starts", "translation")
"""Metrics that compare a reply with the row's answer, and so fit any rows with answers."""
_OWNER = "owner"
_RESULT = re.compile(r"####\s*(-?\d[\d,]*)\s*$")
_SLOT = re.compile(r"\s*([^\W\d][\w ]*)\[([^\[\]]+)\]\s*")
_SLOTS = re.compile(rf"(?:{_SLOT.pattern}(?:[,;]|$))+")


def split_rows(rows: list[Row], seed: int = 0) -> dict[str, list[Row]]:
    """Splits rows into train, validation and test, the same way for the same rows and seed.

    Rows with the same question form a group that stays together, so that no test question was trained on. Each of the
    two held-out parts gets a tenth of the rows, at most MAX_HELD_OUT, and at least one group if there are three or
    more; of a classification it gets that share of every label. Rows of the test part are shuffled, since a score may
    be taken from the first of them alone.
    """
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        key = json.dumps(prompt_of(row)) if row.get("messages") else row["text"]
        groups.setdefault(key, []).append(number)
    order = sorted(groups.values())
    share = min(0.1, MAX_HELD_OUT / max(1, len(rows)))
    if is_classified(rows):
        test, validation = held_out([(rows[group[0]]["meta"]["label"], len(group)) for group in order], share, seed)
    else:
        test, validation = _drawn([len(group) for group in order], share, seed)
    part_of = dict.fromkeys(test, "test") | dict.fromkeys(validation, "validation")
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    for number, group in enumerate(order):
        parts[part_of.get(number, "train")] += group
    parts = {split: sorted(numbers) for split, numbers in parts.items()}
    random.Random(f"order {seed}").shuffle(parts["test"])
    return {split: [rows[number] for number in numbers] for split, numbers in parts.items()}


def _drawn(sizes: list[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the groups for test and validation, drawn by the seed; `sizes`: rows of each group."""
    order = list(range(len(sizes)))
    random.Random(f"split {seed}").shuffle(order)
    wanted = max(1, round(share * sum(sizes))) if len(order) >= 3 and share > 0 else 0
    parts: tuple[list[int], list[int]] = ([], [])
    held = [0, 0]
    for number in order[:-1]:  # the last one at least is trained on
        for part in (0, 1):
            size = held[part] + sizes[number]
            if held[part] < wanted and (held[part] == 0 or size <= 1.2 * wanted + 1):
                parts[part].append(number)
                held[part] = size
                break
    return parts


def note_owner(home: Path, name: str, owner: str) -> None:
    """Records the owner of an upload, unless it has one already; a folder that cannot be written leaves it without."""
    with contextlib.suppress(OSError), open(home / "uploads" / name / _OWNER, "x") as file:
        file.write(owner)


def uploads_of(home: Path, owner: str) -> int:
    """How many uploads an owner has."""
    found = 0
    for path in (home / "uploads").glob(f"*/{_OWNER}"):
        with contextlib.suppress(OSError):
            found += path.read_text() == owner
    return found


def store(reading: Reading, home: Path, name: str, seed: int = 0, metric: str | None = None) -> DatasetCard:
    """Writes HOME/uploads/<id>/ in one rename, and returns its card.

    Args:
        reading: from `readers.read_file`.
        name: the file's name, shown as the dataset's label.
        seed: of the split.
        metric: how answers are scored, or 'none'; None chooses by `choose_metric`.

    Raises:
        DataError: the metric does not fit, or the disk is full or cannot be written.
    """
    chosen = _metric(reading.rows, metric)
    parts = split_rows(reading.rows, seed)
    identifier = f"up-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    label = "".join(char for char in name if char.isprintable()).strip()[:80] or "upload"
    card = {
        "name": identifier,
        "label": label,
        "description": f"Uploaded {reading.format} file with {reading.layout.kind} columns, "
        f"{counted(len(reading.rows), 'row')}.",
        "metric": chosen,
        "licence": "",
        "columns": reading.layout.roles,
        "encoding": reading.encoding,
        "split_seed": seed,
        "skipped_rows": reading.bad,
        "duplicates": reading.duplicates,
        "notes": reading.notes,
        "digest": _digest(reading.rows, seed, chosen),
    }
    root = home / "uploads"
    staging = root / f".{identifier}.tmp"
    try:
        staging.mkdir(parents=True)
        for split, rows in parts.items():
            _write(staging / f"{split}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        _write(staging / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        os.replace(staging, root / identifier)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise DataError(f"The upload cannot be stored ({error.strerror}); free some space on the disk.") from error
    return get_card(identifier, home)


def store_once(reading: Reading, home: Path, name: str, seed: int = 0, metric: str | None = None) -> DatasetCard:
    """As `store`, but if the same rows, split and metric are stored already, their card is returned."""
    digest = _digest(reading.rows, seed, _metric(reading.rows, metric))
    same = (card for card in list_datasets(home) if card.uploaded and card.extra.get("digest") == digest)
    return next(same, None) or store(reading, home, name, seed, metric)


def import_file(
    path: Path, home: Path, name: str | None = None, mapping: Mapping[str, str] | None = None, seed: int = 0
) -> DatasetCard:
    """Reads a file and stores its usable rows; the card's `extra` has the number of skipped rows."""
    return store_once(read_file(path, name, mapping), home, name or path.name, seed)


def _digest(rows: list[Row], seed: int, metric: str) -> str:
    """SHA-256 of rows, their split and their metric."""
    digest = hashlib.sha256(f"{seed} {metric}".encode())
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def _metric(rows: list[Row], wanted: str | None) -> str:
    """The metric of rows, '' for none; writes what it needs into their `meta`. Raises DataError if it does not fit."""
    fitting = choose_metric(rows)
    if wanted is None or wanted == fitting:
        return fitting
    if wanted == "none":
        return ""
    if wanted not in BY_ANSWER or not all(row.get("messages") for row in rows):
        known = ", ".join(dict.fromkeys((*BY_ANSWER, *filter(None, [fitting]), "none")))
        raise DataError(f"The metric {wanted[:40]!r} does not fit these rows; choose one of {known}.")
    for row in rows:
        row["meta"]["answer"] = answer_of(row).strip()
        if wanted == METRIC:
            row["meta"]["label"] = answer_of(row).strip()
    return wanted


def choose_metric(rows: list[Row]) -> str:
    """Chooses the metric for rows, and writes what it needs into their `meta`.

    Returns:
        A name of `evaluation.METRICS`: 'label' for a classification, 'steps' if every answer ends in '#### number'
        (GSM8K), 'slots' if every question is a list of name[value] and nothing else (E2E), 'exact' if all answers are
        short; '' if none fits.
    """
    if not rows or not all(row.get("messages") for row in rows):
        return ""
    if is_classified(rows):
        return METRIC
    answers = [answer_of(row).strip() for row in rows]
    results = [_RESULT.search(answer) for answer in answers]
    if all(results):
        for row, match in zip(rows, results):
            row["meta"]["answer"] = match[1].replace(",", "") if match else ""
        return "steps"
    asked = [prompt_of(row)[-1]["content"] for row in rows]
    slots = [dict(_SLOT.findall(text)) if _SLOTS.fullmatch(text) else {} for text in asked]
    if all(slots):
        for row, fields in zip(rows, slots):
            # No sentence says yes or no for a field: 'familyFriendly[no]' becomes 'not for families'.
            row["meta"]["fields"] = {name: value for name, value in fields.items() if value not in ("yes", "no")}
        return "slots"
    if max(map(len, answers)) <= 40:
        for row, answer in zip(rows, answers):
            row["meta"]["answer"] = answer
        return "exact"
    return ""


def delete(identifier: str, home: Path) -> None:
    """Deletes an upload; raises ConfigError if there is none with this id, DataError for a shipped dataset."""
    card = get_card(identifier, home)
    if not card.uploaded:
        raise DataError(f"{identifier} ships with the app and cannot be deleted; only uploads can.")
    shutil.rmtree(card.folder)


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
