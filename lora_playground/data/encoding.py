"""From rows to token ids and a mask of the tokens that are learned: the answers, and the tokens that end them.

It calls the tokenizer it is given and knows nothing of models, batches or training. `templates.chat_template` finds the
answers in a chat and what ends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_playground.data.catalogue import Row
from lora_playground.errors import DataError
from lora_playground.templates import chat_template, thinking_tags
from lora_playground.templates.special_tokens import neutral, neutralise, special_tokens
from lora_playground.wording import counted

_BATCH = 512


@dataclass(frozen=True)
class Example:
    """One encoded row.

    Attributes:
        ids: (n,) int32 token ids.
        learned: (n,) bool, True where the token is to be predicted.
    """

    ids: np.ndarray
    learned: np.ndarray


@dataclass
class Encoded:
    """Encoded rows.

    Attributes:
        examples: in the rows' order; raw texts longer than `max_length` become several.
        truncated: number of examples that were cut at the end.
        unlearnable: number of rows left out because nothing to learn remained.
        tokens, learned: totals over the examples.
        thoughts: number of answers whose thought was left out, since the model is prompted for answers without one.
        refused: the template's reasons for rows that it cannot render; these rows are left out.
        moved: number of chats whose system text was put into the first user turn, for want of a place in the template.
        closed: number of chats to which the end-of-sequence token was appended, since the template ends no answer.
        unended: number of answers that no learned token ends.
        changed: number of answers that the template alters.
    """

    examples: list[Example] = field(default_factory=list)
    truncated: int = 0
    unlearnable: int = 0
    tokens: int = 0
    learned: int = 0
    thoughts: int = 0
    refused: list[str] = field(default_factory=list)
    moved: int = 0
    closed: int = 0
    unended: int = 0
    changed: int = 0

    def notes(self) -> list[str]:
        """Notes for the user to read before a model learns from these rows."""
        found = []
        if self.refused:
            found.append(f"{counted(len(self.refused), 'row')} left out. {self.refused[0]}")
        if self.moved:
            found.append(
                f"The model's template has no place for a system text; in {counted(self.moved, 'chat')} it stands at "
                "the beginning of the first user turn."
            )
        if self.closed:
            found.append(
                "The model's template has no mark that ends an answer; the end-of-sequence token is put behind the "
                f"last answer of {counted(self.closed, 'chat')} and learned, so that replies stop."
            )
        if self.unended:
            found.append(
                f"{counted(self.unended, 'answer is', many='answers are')} followed by no token that ends a "
                "reply: there the model does not learn to stop."
            )
        if self.changed:
            found.append(
                f"The model's template writes {counted(self.changed, 'answer')} in another way than given, such as "
                "with other marks or without a part; they are learned as it writes them."
            )
        return found


def encode(tokenizer: Any, rows: Sequence[Row], max_length: int) -> Encoded:
    """Encodes rows of messages or text.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        rows: see `data.catalogue`.
        max_length: longest example in tokens; chats are cut at the end, raw texts into pieces.

    Raises:
        DataError: no row has anything to learn.
    """
    result = Encoded()
    special = special_tokens(tokenizer)
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        encoded = iter(_encode_chats(tokenizer, [row for row in part if row.get("messages")], special, result))
        for row in part:
            if not row.get("messages"):
                _add_text(result, tokenizer, neutralise(row["text"], special), max_length)
            elif (found := next(encoded)) is not None:
                _add(result, *found, max_length)
    if rows and not result.examples:
        if result.refused:
            raise DataError(f"None of the {len(rows)} rows can be used. {result.refused[0]}")
        raise DataError(
            f"None of the {len(rows)} rows has a learnable token within {max_length} tokens: every prompt is longer "
            "than that, or every answer is empty. Raise data.max_length or shorten the prompts."
        )
    return result


def coloured(tokenizer: Any, example: Example) -> list[tuple[str, bool]]:
    """The example as (piece of text, whether it is learned), to show what the model sees and what it learns."""
    runs: list[tuple[str, bool]] = []
    start = 0
    for end in range(1, len(example.ids) + 1):
        if end == len(example.ids) or example.learned[end] != example.learned[start]:
            text = tokenizer.decode(example.ids[start:end].tolist(), skip_special_tokens=False)
            runs.append((text, bool(example.learned[start])))
            start = end
    return runs


# -------------------------------------------------------------------------------------------------------- chats


def _encode_chats(
    tokenizer: Any, rows: Sequence[Row], special: Sequence[str], result: Encoded
) -> list[tuple[list[int], np.ndarray] | None]:
    """(ids, mask) of each chat, None if the template cannot render it; the counts in `result` are updated."""
    if not rows:
        return []
    thinks = thinking_tags.thinks(tokenizer.chat_template or "")
    rendered: list[chat_template.Rendered | None] = []
    for row in rows:
        chat = neutral(_without_thoughts(row["messages"], result) if thinks else row["messages"], special)
        try:
            one = chat_template.whole(tokenizer, chat)
        except chat_template.TemplateRefusal as why:
            line = row.get("meta", {}).get("line")
            where = f"the row of line {line}" if line else "a row"
            roles = ", ".join(turn["role"] for turn in chat)[:100]
            result.refused.append(
                f"The model's chat template refuses {where} ({why}). "
                f"Its roles are {roles}; change the row or the model."
            )
            rendered.append(None)
            continue
        result.moved += one.moved
        result.closed += one.closed
        result.unended += one.unended
        result.changed += one.changed
        rendered.append(one)
    texts = [one.text for one in rendered if one is not None]
    tokens = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True) if texts else {"input_ids": []}
    several = iter(zip(tokens["input_ids"], tokens["offset_mapping"])) if texts else iter(())
    return [None if one is None else _masked(*next(several), one.learned) for one in rendered]


def _without_thoughts(messages: Sequence[dict[str, Any]], result: Encoded) -> list[dict[str, Any]]:
    """The messages, answers without thoughts."""
    without = [
        {**turn, "content": thinking_tags.without(turn["content"])} if turn["role"] == "assistant" else turn
        for turn in messages
    ]
    result.thoughts += sum(new["content"] != old["content"] for new, old in zip(without, messages))
    return without


def _masked(
    ids: list[int], offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> tuple[list[int], np.ndarray]:
    """(ids, whether each token has a character in one of the spans)."""
    starts, ends = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    inside = np.zeros(max(ends.max(initial=0), *(end for _, end in spans), 0) + 2, dtype=np.int64)
    for start, end in spans:
        inside[start + 1 : end + 1] = 1
    total = np.cumsum(inside)  # total[n]: characters of spans among the first n
    # Offsets of tokens of white space may be empty: such a token goes back to the end of the one before it.
    before = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
    first = np.where(ends > starts, starts, np.minimum(before, starts))
    return ids, total[np.maximum(ends, first + 1)] > total[first]


# ------------------------------------------------------------------------------------------------------ examples


def _add(result: Encoded, ids: list[int], mask: np.ndarray, max_length: int) -> None:
    cut = len(ids) > max_length
    learned = mask[:max_length]
    if not learned[1:].any():
        result.unlearnable += 1
        return
    result.truncated += cut
    _append(result, Example(np.asarray(ids[:max_length], dtype=np.int32), learned))


def _add_text(result: Encoded, tokenizer: Any, text: str, max_length: int) -> None:
    ids = list(tokenizer(text)["input_ids"])
    if not ids or ids[-1] != tokenizer.eos_token_id:
        ids.append(tokenizer.eos_token_id)
    for start in range(0, len(ids), max_length):
        piece = ids[start : start + max_length]
        if len(piece) > 1:
            _append(result, Example(np.asarray(piece, dtype=np.int32), np.ones(len(piece), dtype=bool)))


def _append(result: Encoded, example: Example) -> None:
    result.examples.append(example)
    result.tokens += len(example.ids)
    result.learned += int(example.learned[1:].sum())
