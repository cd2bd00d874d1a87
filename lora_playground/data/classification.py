"""Turns texts and labels into a classification: an instruction that lists the labels, a test part with every label.

A row of a classification has `meta = {"answer": label, "label": label}`. It knows no files and no tokenizer.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from lora_playground.data.catalogue import Row

METRIC = "label"
MOST_LABELS = 200
LONGEST_LABEL = 80
_WHOLE = re.compile(r"-?\d+\.0")
_LISTED = 400
"""The most characters of labels, all together, that an instruction lists."""


def classify(rows: Sequence[Row], column: str, names: Sequence[str] = ()) -> list[str]:
    """Makes text and label of each row a question and its answer, in place.

    The labels stay ordinary answers if there are more than MOST_LABELS, or more than half as many as rows (of four rows
    or more), or if one is longer than LONGEST_LABEL.

    Args:
        rows: from `data.chats`, changed in place.
        column: name of the column with the labels.
        names: names of the labels 0, 1, ..., if the file has them.

    Returns:
        Notes for the user.
    """
    for row in rows:
        answer = row["messages"][-1]
        if names and answer["content"].isdigit() and int(answer["content"]) < len(names):
            answer["content"] = names[int(answer["content"])]
    if all(_WHOLE.fullmatch(row["messages"][-1]["content"]) for row in rows):
        for row in rows:  # whole numbers, which pandas writes as 1.0 if a column has gaps
            row["messages"][-1]["content"] = row["messages"][-1]["content"].removesuffix(".0")
    spelt = Counter(row["messages"][-1]["content"] for row in rows)
    usual = {label.casefold(): label for label, _ in reversed(spelt.most_common())}
    for row in rows:
        row["messages"][-1]["content"] = usual[row["messages"][-1]["content"].casefold()]
    counts = Counter(row["messages"][-1]["content"] for row in rows)
    labels = sorted(counts, key=_in_order)
    if len(labels) > MOST_LABELS or 2 * len(labels) > len(rows) > 3 or max(map(len, labels)) > LONGEST_LABEL:
        return [f"{column} has {len(labels)} different values in {len(rows)} rows: they are learned as answers."]
    listed = ", ".join(labels)
    asked = f"Classify the text. Answer with one of these labels alone: {listed}."
    shares = ", ".join(f"{label} ({counts[label]})" for label in labels)
    notes = [f"A classification: {column} has the labels {shares}."]
    if len(labels) == 1:
        notes.append("There is only one label, so there is nothing to tell apart.")
    if len(spelt) > len(labels):
        notes.append("Labels that differ in capitals alone are taken for one.")
    if len(listed) > _LISTED:
        asked = "Classify the text. Answer with its label alone."
        notes = [f"A classification: {column} has {len(labels)} labels, too many for the question to list them."]
    if all(label.lstrip("-").isdigit() for label in labels):
        notes.append(f"The labels are numbers; where {column} should be words, give a column that has them.")
    for row in rows:
        question, answer = row["messages"]
        question["content"] = f"{asked}\n\n{question['content']}"
        row["meta"] |= {"answer": answer["content"], "label": answer["content"]}
    return notes


def is_classified(rows: Sequence[Row]) -> bool:
    """Whether the rows are a classification (their `meta` has a label)."""
    return bool(rows) and all("label" in row.get("meta", {}) for row in rows)


def held_out(groups: Sequence[tuple[str, int]], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Draws the groups for test and validation: of each label its share, at least one if it has three groups or more.

    Args:
        groups: (label, number of rows) of each group of rows that stay together.
        share: of the rows for each of the two parts, 0 to 1.

    Returns:
        (indices of the groups for test, for validation).
    """
    by_label: dict[str, list[int]] = {}
    for number, (label, _) in enumerate(groups):
        by_label.setdefault(label, []).append(number)
    parts: tuple[list[int], list[int]] = ([], [])
    for label, numbers in sorted(by_label.items()):
        random.Random(f"split {seed} {label}").shuffle(numbers)
        total = sum(groups[number][1] for number in numbers)
        wanted = max(1, round(share * total)) if len(numbers) >= 3 and share > 0 else 0
        for part in parts:
            size = 0
            while size < wanted and len(numbers) > 1:
                number = numbers.pop()
                part.append(number)
                size += groups[number][1]
    return parts


def _in_order(label: str) -> tuple[int, float, str]:
    """Numbers by value, words by alphabet."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label.casefold()
