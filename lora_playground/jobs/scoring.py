"""Scores base and adapted model side by side: both answer the same prompts in lock step on one pristine copy of W.

It knows the decoder and the metrics; nothing of training. The base's answers are kept in HOME/cache, so that the next
run on the same base and data need not make them again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground import evaluation
from lora_playground.analysis.update import Update
from lora_playground.data.catalogue import SHIPPED, answer_of, get_dataset, prompt_of, read_rows
from lora_playground.errors import DataError, RunError
from lora_playground.runs.files import read_json, write_json

if TYPE_CHECKING:
    from lora_playground.models.decoding import Decoder
    from lora_playground.models.loading import Base

SKILLS = SHIPPED / "_base-skills" / "test.jsonl"
"""What the embedded base model can do before it is adapted; only it is asked for these."""

TASK_ROWS, SKILL_ROWS = 96, 96
TASK_SECONDS = 6.0
SHOWN = 6
"""Samples kept in a result."""
_CHUNK = 24
_LONGEST = 160

Row = dict[str, Any]


class BaseAnswers:
    """The base model's greedy answers, kept on disk by model, prompt and length."""

    def __init__(self, home: Path, fingerprint: str) -> None:
        self.path = home / "cache" / f"base-{fingerprint[:16]}.json"
        found = read_json(self.path)
        self._answers: dict[str, str] = found if isinstance(found, dict) else {}
        self._new = False

    def get(self, messages: Any, longest: int) -> str | None:
        return self._answers.get(self._key(messages, longest))

    def put(self, messages: Any, longest: int, answer: str) -> None:
        self._answers[self._key(messages, longest)] = answer
        self._new = True

    def save(self) -> None:
        """Writes what is new; a cache that cannot be written is no error."""
        if self._new:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, self._answers)
            except (OSError, RunError):
                return
            self._new = False

    @staticmethod
    def _key(messages: Any, longest: int) -> str:
        return hashlib.sha256(json.dumps([messages, longest]).encode()).hexdigest()[:24]


def score_update(
    base: Base,
    updates: Sequence[Update],
    dataset: str,
    home: Path,
    rows: int | None = TASK_ROWS,
    seconds: float | None = TASK_SECONDS,
    embedded: bool = True,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Scores an update against its base on the dataset's test part, and what it forgot.

    Args:
        base: pristine.
        rows: of the test part, the first so many; None for all.
        seconds: after so long no new rows are begun; None, or the embedded model, answers all of them.
        embedded: whether this base is the embedded model, which is asked for its own skills too.

    Returns:
        `score`, `forgetting`, `changed`, `samples` as in a run's result; score is None without test rows or metric.
    """
    from lora_playground.models.decoding import Decoder, RowUpdate
    from lora_playground.models.prompts import can_be_asked

    decoder = Decoder(base.model, base.tokenizer)
    adapted = RowUpdate(decoder.adapter(updates))
    answers = BaseAnswers(home, f"{base.fingerprint.identity[:8]}{str(base.dtype)[6:]}{base.bits}")
    data = get_dataset(dataset, home)
    asked = [row for row in data.test if row.get("messages") and can_be_asked(base.tokenizer, prompt_of(row))]
    metric = data.card.metric if data.card.metric in evaluation.METRICS else ""
    pairs = _both(decoder, adapted, asked[:rows], answers, None if embedded else seconds, should_stop)
    score, samples = _scored(pairs, metric)
    changed = {"n": sum(old.strip() != new.strip() for _, old, new in pairs), "of": len(pairs)} if pairs else None
    forgotten = None
    if embedded and SKILLS.is_file():
        known = read_rows(SKILLS)
        limit = None if rows is None else SKILL_ROWS
        step = max(1, len(known) // (limit or len(known)))  # spread over the file, which is sorted by skill
        found, _ = _scored(_both(decoder, adapted, known[::step][:limit], answers, None, should_stop), "base-skills")
        if found is not None:
            forgotten = {key: found[key] for key in ("base", "adapted", "n")}
            forgotten |= {"drop": found["base"] - found["adapted"]}
            forgotten |= {"low": -found["gain"]["high"], "high": -found["gain"]["low"]}
    answers.save()
    return {"score": score, "forgetting": forgotten, "changed": changed, "samples": samples[:SHOWN]}


Pairs = list[tuple[Row, str, str]]


def _both(
    decoder: Decoder,
    adapted: Any,
    rows: Sequence[Row],
    known: BaseAnswers,
    seconds: float | None,
    should_stop: Callable[[], bool] | None,
) -> Pairs:
    """(row, base's answer, adapted model's answer) of as many rows as the time allows; greedy."""
    began, pairs = time.monotonic(), Pairs()
    for start in range(0, len(rows), _CHUNK):
        if pairs and seconds is not None and time.monotonic() - began > seconds:
            break
        chunk = list(rows[start : start + _CHUNK])
        longest = _length(decoder, chunk)
        asked = [prompt_of(row) for row in chunk]
        base = [known.get(messages, longest) for messages in asked]
        missing = [index for index, answer in enumerate(base) if answer is None]
        made = decoder.generate(
            [*asked, *(asked[index] for index in missing)],
            updates=[*[adapted] * len(asked), *[None] * len(missing)],
            max_new_tokens=longest,
            should_stop=should_stop,
        )
        if should_stop is not None and should_stop():
            break  # the answers were cut short
        for index, answer in zip(missing, made[len(asked) :], strict=True):
            base[index] = answer
            known.put(asked[index], longest, answer)
        pairs += [(row, str(old), new) for row, old, new in zip(chunk, base, made, strict=False)]
    return pairs


def _length(decoder: Decoder, rows: Sequence[Row]) -> int:
    """How many tokens an answer may have: half as much again as the longest reference of these rows."""
    longest = 0
    for row in rows:
        reference = answer_of(row)
        longest = max(longest, len(decoder.tokenizer(reference, add_special_tokens=False)["input_ids"]))
    # A multiple of 16, so that the base's kept answers serve chunks of other sizes too.
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
            sides = []  # an upload may name a metric and lack what it needs
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
    return _told(metric, *sides), samples


def _told(metric: str, base: dict[str, Any], adapted: dict[str, Any]) -> dict[str, Any]:
    """The `score` of a result, from what `evaluation.evaluate` found for base and adapted model on the same rows."""
    before, after = ([sample["score"] for sample in side["samples"]] for side in (base, adapted))
    low, high = evaluation.paired_interval(before, after)
    score: dict[str, Any] = {"metric": metric, "base": base["score"], "adapted": adapted["score"], "n": adapted["n"]}
    score |= {"low": adapted["low"], "high": adapted["high"], "base_low": base["low"], "base_high": base["high"]}
    score["gain"] = {"value": adapted["score"] - base["score"], "low": low, "high": high}
    if "macro_f1" in adapted:
        score["macro_f1"] = {"base": base["macro_f1"], "adapted": adapted["macro_f1"]}
        score["majority"] = adapted["majority"]
    return score
