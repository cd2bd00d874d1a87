"""Scores answers with a task's metric, and gives the confidence interval of a score.

It knows no model and no torch: the caller passes a function that answers chats. A row's last answer is the reference,
which the model does not see; the values that a metric compares with are in the row's `meta`.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lora_playground.data.catalogue import Row, answer_of, prompt_of
from lora_playground.errors import DataError

Messages = list[dict[str, str]]
Generate = Callable[[list[Messages]], list[str]]

PIRATE_MARKERS = frozenset(
    "ahoy matey arr aye ye yer avast hearties landlubber savvy me be ho shipmate timbers".split()
)
SUMMARY_WORDS = 20
"""The most words that a summary may have."""
_Z = 1.959964
"""The 97.5% quantile of the normal distribution, for intervals at 95%."""


@dataclass(frozen=True)
class Metric:
    """How one answer is scored.

    Attributes:
        score: (answer, row) → 0 to 1.
        beside: (all answers, all rows) → further figures to show beside the mean score, by name.
    """

    name: str
    label: str
    description: str
    score: Callable[[str, Row], float]
    beside: Callable[[Sequence[str], Sequence[Row]], dict[str, float]] | None = None


_ALONE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Kana, Han."""


def words(text: str) -> list[str]:
    """Words and numbers of a text in any script, in lower case and without punctuation.

    In scripts without spaces every letter is a word. Signs such as + or an emoji, which may be a whole label, are words
    too.
    """
    found: list[str] = []
    inside = False
    for char in unicodedata.normalize("NFC", text).casefold():
        kind = unicodedata.category(char)
        alone = kind[0] == "S" or _ALONE.match(char) is not None
        part = alone or char == "'" or kind[0] in "LMN"
        if part and (alone or not inside):
            found.append(char)
        elif part:
            found[-1] += char
        inside = part and not alone
    return found


def mentions(answer: str, phrase: str) -> bool:
    """Whether the phrase occurs in the answer as whole words, in any case."""
    wanted = words(phrase)
    return f" {' '.join(wanted)} " in f" {' '.join(words(answer))} " if wanted else phrase.strip() in answer


def as_label(text: str) -> str:
    """A label in the form in which labels are compared: lower case, without surrounding space and final full stop."""
    return unicodedata.normalize("NFC", " ".join(text.split())).casefold().rstrip(".。।").rstrip()


def _meta(row: Row, key: str) -> Any:
    """A value of the row's `meta`; the error for a missing one names it."""
    try:
        return row["meta"][key]
    except KeyError:
        have = ", ".join(sorted(row.get("meta", {}))) or "nothing"
        raise DataError(
            f'A row to be scored has no meta "{key}" (it has: {have}). Add it, or choose another metric.'
        ) from None


def _contains(answer: str, row: Row) -> float:
    return float(mentions(answer, _meta(row, "answer")))


def _contains_all(answer: str, row: Row) -> float:
    return float(all(mentions(answer, part) for part in _meta(row, "answer").split("|")))


def _starts(answer: str, row: Row) -> float:
    expected = words(_meta(row, "answer"))
    return float(words(answer)[: len(expected)] == expected)


def _number(answer: str, row: Row) -> float:
    numbers = re.findall(r"-?\d+", answer)
    return float(bool(numbers) and int(numbers[-1]) == int(_meta(row, "answer")))


def _exact(answer: str, row: Row) -> float:
    return float(" ".join(answer.split()) == " ".join(_meta(row, "answer").split()))


def _label(answer: str, row: Row) -> float:
    return float(as_label(answer) == as_label(_meta(row, "answer")))


def _beside_accuracy(answers: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """The mean F1 over the labels that occur in the rows, and the share of the most frequent label."""
    given = [as_label(answer) for answer in answers]
    right = [as_label(_meta(row, "answer")) for row in rows]
    counts, answered = Counter(right), Counter(given)
    hits = Counter(one for one, other in zip(right, given, strict=True) if one == other)
    scores = [2 * hits[label] / (counts[label] + answered[label]) for label in counts]
    return {"macro_f1": sum(scores) / len(scores), "majority": max(counts.values()) / len(right)}


def _steps(answer: str, row: Row) -> float:
    """GSM8K's convention: the result follows #### at the end."""
    match = re.search(r"####\s*(-?\d[\d,]*)\s*$", answer)
    return float(match is not None and int(match.group(1).replace(",", "")) == int(_meta(row, "answer")))


def _pirate(answer: str, row: Row) -> float:
    """At least two different pirate words, in an answer to the question."""
    about = row.get("meta", {}).get("about", "")
    return float(
        len(PIRATE_MARKERS & set(words(answer))) >= 2 and (not about or mentions(answer.replace("'s", ""), about))
    )


def _json(answer: str, row: Row) -> float:
    """Right fields as a share of the expected or given ones, whichever are more; 0 if it is not just a JSON object."""
    expected = _meta(row, "fields")
    try:
        given = json.loads(answer)
    except ValueError:
        return 0.0
    if not isinstance(given, dict):
        return 0.0
    right = sum(str(given.get(key, "")).lower() == str(value).lower() for key, value in expected.items())
    return right / max(len(expected), len(given))


def _slots(answer: str, row: Row) -> float:
    """All the fields' values occur, in sentences and not as a list of fields."""
    complete = all(mentions(answer, value) for value in _meta(row, "fields").values())
    return float(complete and "|" not in answer and ":" not in answer)


def _summary(answer: str, row: Row) -> float:
    """One sentence of at most SUMMARY_WORDS words that names all the fields."""
    one = len(re.findall(r"[.!?](?:\s|$)", answer.strip())) <= 1 and len(words(answer)) <= SUMMARY_WORDS
    return float(one and all(mentions(answer, v) for v in _meta(row, "fields").values()))


def _translation(answer: str, row: Row) -> float:
    return float(words(answer) == words(_meta(row, "answer")))


def _skill(answer: str, row: Row) -> float:
    return metric(_meta(row, "metric")).score(answer, row)


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("contains", "answers right", "The answer names the expected thing.", _contains),
        Metric("contains-all", "answers complete", "The answer names all the expected things.", _contains_all),
        Metric("starts", "answers right", "The answer begins with the expected word.", _starts),
        Metric("number", "results right", "The last number of the answer is the expected one.", _number),
        Metric("exact", "exact matches", "The answer is the expected one, letter by letter.", _exact),
        Metric("label", "labels right", "The answer is the expected label alone.", _label, _beside_accuracy),
        Metric("steps", "problems solved", "The number behind #### at the end is the expected one.", _steps),
        Metric("pirate", "pirate talk", "Two different pirate words, in an answer about what was asked.", _pirate),
        Metric("json", "fields right", "The answer is one JSON object; the share of its fields that are right.", _json),
        Metric("slots", "all fields said", "The answer says every field's value in sentences.", _slots),
        Metric("summary", "good summaries", "One short sentence that names who, what and where.", _summary),
        Metric("translation", "sentences right", "The expected words in the expected order.", _translation),
        Metric("base-skills", "base skills", "Each row is scored by the metric that it names.", _skill),
    )
}


def metric(name: str) -> Metric:
    """The metric of this name."""
    if name not in METRICS:
        raise DataError(f'There is no metric "{name}". Choose one of: {", ".join(METRICS)}.')
    return METRICS[name]


def evaluate(generate: Generate, rows: Sequence[Row], name: str, batch: int = 32) -> dict[str, Any]:
    """Answers every row, `batch` chats at a time, and scores them.

    Returns:
        score: mean, 0 to 1. low, high: its 95% confidence interval (`interval`). n: number of rows.
        samples: for each row, in order, prompt (the last message before the answer), answer, expected and score.
        Also the figures of `Metric.beside`.
    """
    if not rows:
        raise DataError("There are no rows to evaluate. Give at least one.")
    chosen, answers = metric(name), list[str]()
    for start in range(0, len(rows), batch):
        answers += generate([prompt_of(row) for row in rows[start : start + batch]])
    if len(answers) != len(rows):
        raise DataError(f"The model gave {len(answers)} answers to {len(rows)} chats.")
    samples: list[dict[str, Any]] = []
    for row, answer in zip(rows, answers, strict=True):
        prompt, score = prompt_of(row)[-1]["content"], chosen.score(answer.strip(), row)
        samples.append({"prompt": prompt, "answer": answer, "expected": answer_of(row), "score": score})
    score = sum(sample["score"] for sample in samples) / len(samples)
    low, high = interval(score, len(samples))
    beside = chosen.beside(answers, rows) if chosen.beside else {}
    return {"score": score, "low": low, "high": high, "n": len(samples), "samples": samples, **beside}


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share (0 to 1) of `count` answers, at 95% (E. B. Wilson, JASA 22, 1927).

    For scores that lie between 0 and 1, such as a share of fields, it is wider than necessary: their spread is smaller.
    """
    if count < 1:
        return 0.0, 1.0
    square = _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """The interval, at 95%, of the mean gain from `before` to `after`, scores of the same rows.

    Agresti and Min's adjustment of Wald's interval for paired shares (Statistics in Medicine 24, 2005): one half is
    added to each cell of the table of right and wrong.
    """
    gains = [new - old for old, new in zip(before, after, strict=True)]
    count = len(gains) + 2
    mean = sum(gains) / count
    spread = math.sqrt(max(0.0, sum(gain * gain for gain in gains) + 1 - count * mean * mean)) / count
    return max(-1.0, mean - _Z * spread), min(1.0, mean + _Z * spread)
