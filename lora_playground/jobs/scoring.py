"""Scores base and adapted model: both answer the same prompts in lock step, on one copy of the base's weights.

It knows the decoder and the metrics; nothing of training. All answers are stored: the base's in HOME/cache, for later
runs on the same base and data; the adapted model's with its run, so that scoring that ended early can be continued.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground import evaluation
from lora_playground.analysis.update import Update
from lora_playground.data.catalogue import SHIPPED, answer_of, get_dataset, prompt_of, read_rows
from lora_playground.errors import DataError, RunError
from lora_playground.estimates.time import SCORING_SECONDS
from lora_playground.runs.files import read_json, write_json

if TYPE_CHECKING:
    from lora_playground.models.decoding import Decoder, RowUpdate
    from lora_playground.models.loading import Base

SKILLS = SHIPPED / "_base-skills" / "test.jsonl"
"""Test rows for skills that the embedded base model has before it is adapted. Other bases are not asked these."""

TASK_ROWS, SKILL_ROWS = 96, 96
SHOWN = 6
"""Number of samples in a result."""
_CHUNK, _FIRST_CHUNK = 24, 4
"""Rows that are answered at once, and rows in the first chunk, which measures how long a row takes."""
_LONGEST = 160

Row = dict[str, Any]
Pairs = list[tuple[Row, str, str]]


class Answers:
    """Greedy answers of one model, stored in a file by prompt and greatest length."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        found = read_json(path) if path is not None else None
        self._answers: dict[str, str] = found if isinstance(found, dict) else {}

    def get(self, messages: Any, longest: int) -> str | None:
        return self._answers.get(self._key(messages, longest))

    def put(self, messages: Any, longest: int, answer: str) -> None:
        self._answers[self._key(messages, longest)] = answer

    def save(self) -> None:
        """Writes the file. If that fails nothing is raised, since the answers can be computed again."""
        if self.path is not None:
            with contextlib.suppress(OSError, RunError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, self._answers)

    @staticmethod
    def _key(messages: Any, longest: int) -> str:
        return hashlib.sha256(json.dumps([messages, longest]).encode()).hexdigest()[:24]


@dataclass
class Asking:
    """Asks base and adapted model.

    Attributes:
        adapted: the update of the adapted model. answers: stored answers of the base, and of the adapted model.
        seconds: after this time no more rows are begun; None for no limit.
        should_stop: once it returns true, no more rows are begun.
        report: called after each chunk with (rows done, all rows, seconds left).
        planned: number of all rows. done: rows answered.
    """

    decoder: Decoder
    adapted: RowUpdate
    answers: tuple[Answers, Answers]
    seconds: float | None
    should_stop: Callable[[], bool]
    report: Callable[[int, int, float], None]
    planned: int
    done: int = 0
    began: float = field(default_factory=lambda: time.monotonic())

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def both(self, rows: Sequence[Row]) -> Pairs:
        """(row, base's answer, adapted model's answer), greedy, of as many rows as the time allows."""
        pairs: Pairs = []
        while (chunk := list(rows[len(pairs) : len(pairs) + self._affordable()])) and not self.should_stop():
            answered = self._answer(chunk)
            if not answered:
                break
            pairs += answered
            self.done += len(chunk)
            self.report(self.done, self.planned, self.elapsed / self.done * max(0, self.planned - self.done))
        return pairs

    def _affordable(self) -> int:
        """How many rows to answer next."""
        if self.seconds is None:
            return _CHUNK
        if self.done == 0:
            return _FIRST_CHUNK
        return min(_CHUNK, int((self.seconds - self.elapsed) * self.done / max(1e-6, self.elapsed)))

    def _answer(self, chunk: list[Row]) -> Pairs:
        """Both answers to each row of a chunk; [] if a stop came before all were complete."""
        longest = _length(self.decoder, chunk)
        asked = [prompt_of(row) for row in chunk]
        updates = (None, self.adapted)
        missing = [(side, index) for side in (1, 0) for index, messages in enumerate(asked)
                   if self.answers[side].get(messages, longest) is None]  # fmt: skip
        if missing:
            made = self.decoder.generate(
                [asked[index] for _, index in missing],
                updates=[updates[side] for side, _ in missing],
                max_new_tokens=longest,
                should_stop=self.should_stop,
            )
            if self.should_stop():
                return []
            for (side, index), answer in zip(missing, made, strict=True):
                self.answers[side].put(asked[index], longest, answer)
            for answers in self.answers:
                answers.save()
        base, adapted = ([str(answers.get(messages, longest)) for messages in asked] for answers in self.answers)
        return list(zip(chunk, base, adapted, strict=True))


def score_update(
    base: Base,
    updates: Sequence[Update],
    dataset: str,
    home: Path,
    rows: int | None = TASK_ROWS,
    seconds: float | None = SCORING_SECONDS,
    embedded: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int, float], None] = lambda *_: None,
    answers: Path | None = None,
) -> dict[str, Any]:
    """Scores an update beside its base on the dataset's test part, and measures what it forgot.

    Args:
        base: unchanged. updates: of the adapted model.
        rows: number of test rows, from the first; None for all.
        seconds: after this time no more rows are begun; None for no limit. The embedded model always answers all rows.
        embedded: whether the base is the embedded model, so that its own skills are tested too.
        should_stop, report: see `Asking`.
        answers: file for the adapted model's answers; None stores none.

    Returns:
        {score, forgetting, changed, samples, scoring} as in a run's result. `score` is None without test rows or
        metric.
    """
    from lora_playground.models.decoding import Decoder, RowUpdate
    from lora_playground.models.prompts import can_be_asked

    decoder = Decoder(base.model, base.tokenizer)
    cached = home / "cache" / f"base-{base.fingerprint.identity[:8]}{str(base.dtype)[6:]}{base.bits}.json"
    data = get_dataset(dataset, home)
    usable = (row for row in data.test if row.get("messages") and can_be_asked(base.tokenizer, prompt_of(row)))
    asked = list(usable)[:rows]
    metric = data.card.metric if data.card.metric in evaluation.METRICS else ""
    known = read_rows(SKILLS) if embedded and SKILLS.is_file() else []
    if rows is not None and len(known) > SKILL_ROWS:  # evenly from the whole file, which is sorted by skill
        known = [known[number * len(known) // SKILL_ROWS] for number in range(SKILL_ROWS)]
    asking = Asking(
        decoder,
        RowUpdate(decoder.adapter(updates)),
        (Answers(cached), Answers(answers)),
        None if embedded else seconds,
        should_stop,
        report,
        len(asked) + len(known),
    )
    pairs = asking.both(asked)
    score, samples = _scored(pairs, metric)
    changed = {"n": sum(old.strip() != new.strip() for _, old, new in pairs), "of": len(pairs)} if pairs else None
    forgotten = _forgotten(*_scored(asking.both(known), "base-skills"))
    note = ""
    if asking.done < asking.planned:
        why = "was stopped" if should_stop() else f"may take {seconds:.0f} s"
        note = f"Scoring {why}: {len(pairs)} of {len(asked)} test rows are answered. `evaluate` goes on from there."
    scoring = {"rows": len(pairs), "of": len(asked), "note": note}
    return {"score": score, "forgetting": forgotten, "changed": changed, "samples": samples[:SHOWN], "scoring": scoring}


def _forgotten(found: dict[str, Any] | None, skills: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The `forgetting` of a result, from the score on the base's own skills, with an example of a skill that was
    lost."""
    if found is None:
        return None
    forgotten = {key: found[key] for key in ("base", "adapted", "n")} | {"drop": found["base"] - found["adapted"]}
    forgotten |= {"low": -found["gain"]["high"], "high": -found["gain"]["low"], "each": found["each"]}
    lost = next((one for one in skills if one["base_score"] == 1 and one["adapted_score"] == 0), None)
    return forgotten | ({"lost": lost} if lost else {})


def _length(decoder: Decoder, rows: Sequence[Row]) -> int:
    """The most tokens an answer may have: 1.5 times the longest reference answer of these rows, at most _LONGEST."""
    longest = 0
    for row in rows:
        reference = answer_of(row)
        longest = max(longest, len(decoder.tokenizer(reference, add_special_tokens=False)["input_ids"]))
    # A multiple of 16, so that stored answers of the base can be used for other sets of rows.
    return min(_LONGEST, (longest * 3 // 2 + 23) // 16 * 16) if longest else _LONGEST


def _scored(pairs: Pairs, metric: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """(score or None, samples) of pairs of answers."""
    rows = [row for row, _, _ in pairs]
    sides: list[dict[str, Any]] = []
    if metric and rows:
        try:
            for answers in ([old for _, old, _ in pairs], [new for _, _, new in pairs]):
                sides.append(evaluation.evaluate(lambda _, given=answers: given, rows, metric, batch=len(rows)))  # type: ignore[misc]
        except DataError:
            sides = []  # an uploaded dataset can name a metric without the fields that it needs
    samples = []
    for index, (row, old, new) in enumerate(pairs):
        samples.append(
            {
                "prompt": prompt_of(row)[-1]["content"],
                "expected": answer_of(row),
                "base": old,
                "adapted": new,
                "base_score": sides[0]["samples"][index]["score"] if sides else None,
                "adapted_score": sides[1]["samples"][index]["score"] if sides else None,
            }
        )
    if not sides:
        return None, samples
    own = evaluation.evaluate(lambda _: [answer_of(row) for row in rows], rows, metric, batch=len(rows))["score"]
    return _told(metric, *sides) | ({"reference": own} if own < 1 else {}), samples


def _told(metric: str, base: dict[str, Any], adapted: dict[str, Any]) -> dict[str, Any]:
    """The `score` of a result, from what `evaluation.evaluate` found for base and adapted model on the same rows."""
    before, after = ([sample["score"] for sample in side["samples"]] for side in (base, adapted))
    low, high = evaluation.paired_interval(before, after)
    score: dict[str, Any] = {"metric": metric, "base": base["score"], "adapted": adapted["score"], "n": adapted["n"]}
    score |= {"low": adapted["low"], "high": adapted["high"], "base_low": base["low"], "base_high": base["high"]}
    score["each"] = [round(float(value), 4) for value in after]
    score["gain"] = {"value": adapted["score"] - base["score"], "low": low, "high": high}
    if "macro_f1" in adapted:
        score["macro_f1"] = {"base": base["macro_f1"], "adapted": adapted["macro_f1"]}
        score["majority"] = adapted["majority"]
    return score
