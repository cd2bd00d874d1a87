"""Packs encoded examples into batches of one fixed shape. Examples in one row do not see each other; the same seed
gives the same batches. Plain NumPy: it knows no tokenizer, no model and no device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lora_playground.data.encoding import Example

IGNORED = -100
_WINDOW_ROWS = 16


@dataclass(frozen=True)
class Batch:
    """Rows of one or more examples each; all arrays are (rows, length) int64.

    Attributes:
        ids: token ids, `pad` behind the last example of a row.
        positions: position within the example, from 0 in each.
        segments: number of the example within its row, from 1; 0 for padding.
        targets: at each place the token that comes next, if it is to be learned, else IGNORED.
        tokens: tokens that are not padding; learned: targets that are not ignored.
    """

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    targets: np.ndarray
    tokens: int
    learned: int


def row_length(examples: Sequence[Example], batch_tokens: int, multiple: int = 32, whole: bool = False) -> int:
    """How long the rows of a batch should be, in tokens, rounded up to `multiple`.

    The longest example's length, or four times the median's (at most the batch) if that is more: short rows are often
    left half empty, long ones make attention expensive.

    Args:
        batch_tokens: of one batch. whole: make one row of the whole batch.
    """
    lengths = np.array([len(example.ids) for example in examples])
    wanted = max(int(lengths.max()), batch_tokens if whole else min(4 * int(np.median(lengths)), batch_tokens))
    return -(-wanted // multiple) * multiple


def pack(examples: Sequence[Example], length: int, rows: int, pad: int, solo: bool = False) -> list[Batch]:
    """All examples once, for validation, in as few batches as best-fit decreasing finds. `solo`: one example a row."""
    bins = _bins(sorted(examples, key=lambda example: -len(example.ids)), length, solo)
    return [as_batch(bins[start : start + rows], length, rows, pad) for start in range(0, len(bins), rows)]


def digest_of(examples: Iterable[Example]) -> str:
    """SHA-256 over the tokens and masks of examples: equal for two runs that learn from the same examples in the same
    order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.ids.tobytes() + example.learned.tobytes())
    return digest.hexdigest()


class Stream:
    """An endless stream of batches. Each epoch is shuffled; a window of some hundred examples is packed at a time; a
    share of rehearsal is mixed in.

    Args:
        examples: to learn from.
        rehearsal: other examples, mixed in so that they make up `share` of the tokens.
        length, rows: shape of a batch.
        pad: token id for padding.
        seed: the same seed and examples give the same stream.
        share: of rehearsal tokens, 0 to 0.9.
        solo: one example a row, for models in which packed examples would see each other.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        length: int,
        rows: int,
        pad: int,
        seed: int,
        rehearsal: Sequence[Example] = (),
        share: float = 0.0,
        solo: bool = False,
    ) -> None:
        longest = max(len(example.ids) for example in [*examples, *rehearsal])
        if longest > length:
            raise ValueError(f"an example of {longest} tokens does not fit into rows of {length}")
        self.length, self.rows, self.pad, self.solo = length, rows, pad, solo
        own = _epochs(examples, np.random.default_rng([seed, 1]))
        extra = _epochs(rehearsal, np.random.default_rng([seed, 2])) if rehearsal and share > 0 else None
        self._examples = _mixed(own, extra, share)
        self._order = np.random.default_rng([seed, 3])
        self._ready: list[list[Example]] = []
        self._open: list[list[Example]] = []

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return as_batch(self.layout(), self.length, self.rows, self.pad)

    def layout(self) -> list[list[Example]]:
        """The examples of the next batch, row by row."""
        return [self._row() for _ in range(self.rows)]

    def skip(self, batches: int) -> None:
        """Skips this many batches: those that a resumed run has already seen."""
        for _ in range(batches * self.rows):
            self._row()

    def _row(self) -> list[Example]:
        if not self._ready:
            self._fill()
        return self._ready.pop()

    def _fill(self) -> None:
        """Packs the next window; the examples of its two emptiest rows are packed again with the next one."""
        wanted = _WINDOW_ROWS * max(self.rows, 4) * self.length
        window = [example for row in self._open for example in row]
        size = sum(len(example.ids) for example in window)
        while size < wanted:
            example = next(self._examples)
            window.append(example)
            size += len(example.ids)
        bins = _bins(_mixing(window, self.length), self.length, self.solo)
        fill = [sum(len(example.ids) for example in row) for row in bins]
        by_fill = sorted(range(len(bins)), key=lambda number: fill[number])
        kept = set(by_fill[: min(2, len(bins) - 1)])
        self._open = [bins[number] for number in sorted(kept)]
        done = [row for number, row in enumerate(bins) if number not in kept]
        self._ready = [done[number] for number in self._order.permutation(len(done))]


def as_batch(rows: Sequence[Sequence[Example]], length: int, height: int, pad: int) -> Batch:
    """One batch of `height` rows; those beyond the given ones hold only padding. Padding stands at position 0, so that
    no position is beyond what a model with learned positions has."""
    ids = np.full((height, length), pad, dtype=np.int64)
    positions, segments = np.zeros_like(ids), np.zeros_like(ids)
    targets = np.full_like(ids, IGNORED)
    tokens = 0
    for number, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row, 1):
            end = start + len(example.ids)
            ids[number, start:end] = example.ids
            positions[number, start:end] = np.arange(end - start)
            segments[number, start:end] = segment
            targets[number, start : end - 1] = np.where(example.learned[1:], example.ids[1:], IGNORED)
            start = end
        tokens += start
    return Batch(ids, positions, segments, targets, tokens, int((targets != IGNORED).sum()))


def _bins(examples: Sequence[Example], length: int, solo: bool) -> list[list[Example]]:
    if solo:
        return [[example] for example in examples]
    return _best_fit(examples, length)


def _mixing(examples: Sequence[Example], length: int) -> list[Example]:
    """The order in which a window is packed: first what fills more than half a row, then the rest as it came.

    Sorting all of it by length would put examples of one kind together, and a step could see rehearsal alone.
    """
    long = [example for example in examples if 2 * len(example.ids) > length]
    short = [example for example in examples if 2 * len(example.ids) <= length]
    return [*sorted(long, key=lambda example: -len(example.ids)), *short]


def _best_fit(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Puts each example into the fullest row that still has space for it. `free[s]`: rows with space for s tokens."""
    bins: list[list[Example]] = []
    free: list[list[int]] = [[] for _ in range(length + 1)]
    for example in examples:
        size = len(example.ids)
        left = next((left for left in range(size, length + 1) if free[left]), None)
        if left is None:
            bins.append([])
            number, left = len(bins) - 1, length
        else:
            number = free[left].pop()
        bins[number].append(example)
        free[left - size].append(number)
    return bins


def _epochs(examples: Sequence[Example], rng: np.random.Generator) -> Iterator[Example]:
    while True:
        for number in rng.permutation(len(examples)):
            yield examples[number]


def _mixed(own: Iterator[Example], extra: Iterator[Example] | None, share: float) -> Iterator[Example]:
    if extra is None:
        yield from own
        return
    total = mixed_in = 0
    while True:
        rehearse = mixed_in < share * total
        example = next(extra if rehearse else own)
        total += len(example.ids)
        mixed_in += len(example.ids) if rehearse else 0
        yield example
