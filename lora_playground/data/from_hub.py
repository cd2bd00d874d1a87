"""Imports a dataset of the Hugging Face hub: the files of one part are fetched and read like an uploaded file.

Code that comes with a dataset is never run. It knows no torch and no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from lora_playground.data.catalogue import DatasetCard
from lora_playground.data.readers import MAX_BYTES, Reading, columns_of, read_file
from lora_playground.data.uploads import store
from lora_playground.errors import DataError
from lora_playground.hub import Progress, fetch, is_id

_ENDINGS = ("parquet", "jsonl", "ndjson", "json", "csv", "tsv", "txt")
_ABOUT = {"dataset_infos.json", "dataset_info.json", "state.json", "requirements.txt", "license.txt", "readme.txt"}
_SPLIT = re.compile(r"(?:^|(?<=[\W_]))(train|training|test|validation|valid|val|dev|eval)(?=[\W_\d]|$)", re.I)
_SAME = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}
_CONVERTED = "refs/convert/parquet"
"""The branch with the hub's own Parquet copy of datasets that are published as code."""


def read_hub(
    repo: str,
    part: str = "train",
    mapping: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    anonymous: bool = False,
) -> Reading:
    """Fetches and reads one part of a hub dataset.

    Args:
        repo: its id, such as 'openai/gsm8k'.
        part: 'train', or with its subset 'main/train'.
        mapping: as for `readers.read_file`.
        anonymous: see `hub.fetch`.

    Raises:
        DataError: there is no such dataset or part (naming those there are), or it cannot be read.
    """
    files, left_out = _files(repo, part, progress, anonymous)
    reading = _joined([read_file(path, path.name, mapping) for path in files])
    if left_out:
        kept = f"{len(files)} of {len(files) + left_out} files of this part were read"
        reading.notes.append(f"Only {kept}: more than {MAX_BYTES >> 20} MB are not taken.")
    return reading


def columns_of_hub(repo: str, part: str = "train") -> list[str]:
    """Names of the columns of a part, so that the user can map them; fetched without a login.

    Raises:
        DataError: as `read_hub`.
    """
    files, _ = _files(repo, part, None, True)
    return columns_of(files[0], files[0].name)


def _files(repo: str, part: str, progress: Progress | None, anonymous: bool) -> tuple[list[Path], int]:
    """(paths of the fetched files of a part, how many of its files were left out)."""
    repo, part = repo.strip(), part.strip().strip("/").lower() or "train"
    if not is_id(repo):
        raise DataError(f"{repo[:80]!r} is no id of a hub dataset; it looks like 'openai/gsm8k'.")
    left_out: list[str] = []
    wanted: list[str] = []

    def choose(sizes: dict[str, int]) -> list[str]:
        parts = parts_of(sizes)
        if parts:
            wanted[:], left_out[:] = within_limit(repo, parts[part_named(repo, part, parts)], sizes)
        return wanted

    folder = fetch(repo, choose, "dataset", None, progress, anonymous)
    if not wanted:
        folder = _converted(repo, choose, progress, anonymous)
    if not wanted:
        raise DataError(
            f"{repo} holds no {', '.join(_ENDINGS)} files. Code that comes with a dataset is never run; choose one "
            "that is stored as files."
        )
    return [folder / name for name in wanted], len(left_out)


def import_from_hub(
    repo: str,
    home: Path,
    part: str = "train",
    mapping: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DatasetCard:
    """Fetches, reads and stores one part of a hub dataset as an upload.

    Args:
        repo, part, mapping: as for `read_hub`. home: the app's folder.
        seed: of the split into train, validation and test (`uploads.split_rows`).

    Raises:
        DataError: it cannot be fetched, read or stored.
    """
    return store(read_hub(repo, part, mapping, progress), home, f"{repo} {part}", seed)


def parts_of(names: Sequence[str] | Mapping[str, int]) -> dict[str, list[str]]:
    """The data files of a repository by part, such as {'main/train': [...], 'main/test': [...]}; of one part stored
    in several formats the first of `_ENDINGS` is taken."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        ending = path.suffix[1:].lower()
        if ending in _ENDINGS and path.name.lower() not in _ABOUT and not any(p.startswith(".") for p in path.parts):
            found.setdefault(_part(path), {}).setdefault(ending, []).append(name)
    return {part: min(kinds.items(), key=lambda one: _ENDINGS.index(one[0]))[1] for part, kinds in found.items()}


def _part(path: PurePosixPath) -> str:
    """'main/train' for main/train-00000-of-00001.parquet; a file that names no split is 'train', as on the hub."""
    pieces = [*path.parts[:-1], path.stem]
    for place in range(len(pieces) - 1, -1, -1):
        match = _SPLIT.search(pieces[place])
        if match:
            split = _SAME.get(match[1].lower(), match[1].lower())
            before = [*pieces[:place], pieces[place][: match.start()].strip("-_. ")]
            break
    else:
        split, before = "train", pieces
    subset = [piece.lower() for piece in before if piece and piece.lower() not in ("data", "default")]
    return "/".join([*subset, split])


def part_named(repo: str, part: str, parts: Mapping[str, Sequence[str]]) -> str:
    """The part of this name: its whole name ('main/train'), or its split alone ('train') if only one subset has it.
    Raises DataError, which lists the parts, if none or several have the name."""
    subset, _, split = part.rpartition("/")
    exact = "/".join(filter(None, [subset, _SAME.get(split, split)]))
    if exact in parts:
        return exact
    ends = [name for name in parts if name.endswith("/" + exact)]
    if len(ends) == 1:
        return ends[0]
    there = ", ".join(sorted(ends or parts)[:12])
    what = f"several parts {part!r}" if ends else f"no part {part!r}"
    raise DataError(f"{repo} has {what}; give one of: {there}.")


def within_limit(repo: str, names: Sequence[str], sizes: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """(files to fetch, files left out), so that no more than MAX_BYTES are fetched. Raises DataError if the first file
    alone is larger."""
    taken, total = [], 0
    for name in names:
        total += sizes[name]
        if total > MAX_BYTES:
            break
        taken.append(name)
    if not taken:
        raise DataError(
            f"{repo}: {names[0]} has {sizes[names[0]] / 2**20:,.0f} MB; at most {MAX_BYTES >> 20} MB can be read. "
            "Choose a smaller part, or upload a piece of it."
        )
    return taken, list(names[len(taken) :])


def _converted(repo: str, choose, progress: Progress | None, anonymous: bool) -> Path:  # type: ignore[no-untyped-def]
    try:
        return fetch(repo, choose, "dataset", _CONVERTED, progress, anonymous)
    except DataError as error:
        if "spelling" in str(error):  # there is no such branch
            return Path()
        raise


def _joined(readings: list[Reading]) -> Reading:
    """Readings of several files as one."""
    first = readings[0]
    for other in readings[1:]:
        first.rows += other.rows
        first.lines += other.lines
        first.problems += other.problems
        first.repeats += other.repeats
        first.bad += other.bad
        first.duplicates += other.duplicates
        first.notes += [note for note in other.notes if note not in first.notes]
        first.columns += [column for column in other.columns if column not in first.columns]
    return first
