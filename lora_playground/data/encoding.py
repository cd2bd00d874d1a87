"""From rows to token ids and a mask that says which tokens are learned: the assistant's words and the end of its turn.

It calls the tokenizer it is given and knows nothing of models, batches or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_playground.data.catalogue import Row
from lora_playground.errors import DataError
from lora_playground.templates import thinking_tags
from lora_playground.templates.special_tokens import neutralise, special_tokens

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "</s>", "<|endoftext|>")
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
        examples: in the rows' order; raw texts longer than a row's limit become several.
        truncated: examples that were cut at the end; unlearnable: rows left out because nothing to learn remained.
        tokens, learned: totals over the examples.
        thoughts: answers whose thought was left out, since the model is asked for answers without one.
    """

    examples: list[Example] = field(default_factory=list)
    truncated: int = 0
    unlearnable: int = 0
    tokens: int = 0
    learned: int = 0
    thoughts: int = 0


def encode(tokenizer: Any, rows: Sequence[Row], max_length: int) -> Encoded:
    """Encodes rows of messages or text.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        rows: see `data.catalogue`.
        max_length: longest example in tokens; chats are cut at the end, raw texts into pieces.

    Raises:
        DataError: the template refuses a row, or no row has anything to learn.
    """
    result = Encoded()
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        chats = [row for row in part if row.get("messages")]
        if thinking_tags.thinks(tokenizer.chat_template or ""):
            chats = [_without_thoughts(row, result) for row in chats]
        encoded = iter(_encode_chats(tokenizer, chats))
        for row in part:
            if row.get("messages"):
                _add(result, *next(encoded), max_length)
            else:
                _add_text(result, tokenizer, row["text"], max_length)
    if rows and not result.examples:
        raise DataError(
            f"None of the {len(rows)} rows has a learnable token within {max_length} tokens: every prompt is longer "
            "than that, or every answer is empty. Raise data.max_length or shorten the prompts."
        )
    return result


def coloured(tokenizer: Any, example: Example) -> list[tuple[str, bool]]:
    """The example as (piece of text, learned) runs, for showing what the model will see and learn."""
    runs: list[tuple[str, bool]] = []
    start = 0
    for end in range(1, len(example.ids) + 1):
        if end == len(example.ids) or example.learned[end] != example.learned[start]:
            text = tokenizer.decode(example.ids[start:end].tolist(), skip_special_tokens=False)
            runs.append((text, bool(example.learned[start])))
            start = end
    return runs


# -------------------------------------------------------------------------------------------------------- chats


def _encode_chats(tokenizer: Any, rows: Sequence[Row]) -> list[tuple[list[int], list[int]]]:
    """(ids, mask) of each chat, by the template's own marks where it has them, else by comparing prefixes."""
    if not rows:
        return []
    special = special_tokens(tokenizer)
    chats = [_neutral(row["messages"], special) for row in rows]
    try:
        return _encode_batch(tokenizer, chats)
    except Exception as error:  # a template is a program of the model's authors and may raise anything
        for row, chat in zip(rows, chats):
            try:
                _encode_batch(tokenizer, [chat])
            except Exception as cause:
                line = row.get("meta", {}).get("line")
                where = f"the row of line {line}" if line else "a row"
                raise DataError(
                    f"The model's chat template refuses {where} ({str(cause)[:200]}). "
                    f"Its roles are {', '.join(turn['role'] for turn in chat)[:100]}; change the row or the model."
                ) from cause
        raise DataError(f"The rows cannot be encoded ({str(error)[:200]}).") from error


def _encode_batch(tokenizer: Any, chats: list[list[dict[str, str]]]) -> list[tuple[list[int], list[int]]]:
    ends = _turn_end_ids(tokenizer)
    if "generation" in (tokenizer.chat_template or "") and "endgeneration" in tokenizer.chat_template:
        done = tokenizer.apply_chat_template(
            chats, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, add_generation_prompt=False,
            **thinking_tags.OPTIONS,
        )  # fmt: skip
        pairs = list(zip(done["input_ids"], done["assistant_masks"]))
        if all(any(mask) for _, mask in pairs):
            return [(ids, _with_turn_end(ends, ids, mask)) for ids, mask in pairs]
    texts = [_render_whole(tokenizer, chat) for chat in chats]
    spans = [_answer_spans(tokenizer, chat, text) for chat, text in zip(chats, texts)]
    tokens = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    pairs = []
    for ids, offsets, answers in zip(tokens["input_ids"], tokens["offset_mapping"], spans):
        mask = [int(any(a < end and start < b for a, b in answers)) if end > start else 0 for start, end in offsets]
        pairs.append((ids, _with_turn_end(ends, ids, mask)))
    return pairs


def _render(tokenizer: Any, messages: list[dict[str, str]], prompt: bool = False) -> str:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=prompt, **thinking_tags.OPTIONS
    )
    return thinking_tags.closed(text) if prompt else text


def _render_whole(tokenizer: Any, chat: list[dict[str, str]]) -> str:
    text = _render(tokenizer, chat)
    if chat[-1]["role"] != "assistant" or not thinking_tags.thinks(tokenizer.chat_template or ""):
        return text
    return thinking_tags.as_asked(text, _render(tokenizer, chat[:-1], prompt=True), chat[-1]["content"])


def _without_thoughts(row: Row, result: Encoded) -> Row:
    """The row, its answers without thoughts."""
    messages = [
        {**turn, "content": thinking_tags.without(turn["content"])} if turn["role"] == "assistant" else turn
        for turn in row["messages"]
    ]
    result.thoughts += sum(new["content"] != old["content"] for new, old in zip(messages, row["messages"]))
    return {**row, "messages": messages}


def _answer_spans(tokenizer: Any, messages: list[dict[str, str]], text: str) -> list[tuple[int, int]]:
    """Character spans of the assistant's words in the rendered chat.

    Each starts where the prompt for that turn ends (templates of thinking models put an empty thought there, which
    the model has to write itself) and ends with the last character of the content.
    """
    spans: list[tuple[int, int]] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = _render(tokenizer, messages[:number], prompt=True)
        start = len(prompt) if text.startswith(prompt) else _common(prompt, text)
        start = max(start, spans[-1][1] if spans else 0)
        content = message["content"].strip()
        found = text.find(content, start)
        if found < 0:  # The template rewrote the content, such as a thought that it cut out.
            ends = [place for mark in _TURN_ENDS if (place := text.find(mark, start)) >= 0]
            spans.append((start, min(ends, default=len(text))))
        else:
            end, tail = found + len(content), message["content"][len(message["content"].rstrip()) :]
            # Templates that keep white space at the end have it between the answer and the mark that ends the turn.
            spans.append((start, end + len(tail) if text.startswith(tail, end) else end))
    return spans


def _common(one: str, other: str) -> int:
    """How many characters two texts share at their beginning."""
    return next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _with_turn_end(ends: frozenset[int], ids: list[int], mask: list[int]) -> list[int]:
    """The mask, with the end-of-turn token that follows an answer learned as well: it is what stops generation."""
    mask = list(mask)
    for place in range(1, len(ids)):
        if mask[place - 1] and not mask[place] and ids[place] in ends and ids[place - 1] not in ends:
            mask[place] = 1
    return mask


def _turn_end_ids(tokenizer: Any) -> frozenset[int]:
    known = tokenizer.get_added_vocab()
    ids = {known[token] for token in _TURN_ENDS if token in known}
    return frozenset(ids | {tokenizer.eos_token_id})


def _neutral(messages: Sequence[dict[str, str]], special: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": turn["role"], "content": neutralise(turn["content"], special)} for turn in messages]


# ------------------------------------------------------------------------------------------------------ examples


def _add(result: Encoded, ids: list[int], mask: list[int], max_length: int) -> None:
    cut = len(ids) > max_length
    learned = np.asarray(mask[:max_length], dtype=bool)
    if not learned[1:].any():
        result.unlearnable += 1
        return
    result.truncated += cut
    _append(result, Example(np.asarray(ids[:max_length], dtype=np.int32), learned))


def _add_text(result: Encoded, tokenizer: Any, text: str, max_length: int) -> None:
    ids = list(tokenizer(neutralise(text, special_tokens(tokenizer)))["input_ids"])
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
