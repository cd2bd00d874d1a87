"""A dataset as the model will see it: raw text with the learned tokens coloured, lengths, truncated and double rows.

Tokens are made from the model's own files without torch. It knows no run and reads no upload.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lora_playground.data.catalogue import Row, get_dataset
from lora_playground.data.encoding import Encoded, Example, coloured, encode
from lora_playground.errors import PlaygroundError
from lora_playground.models.catalogue import folder_of
from lora_playground.models.plain_tokenizer import PlainTokenizer
from lora_playground.templates.thinking_tags import thinks
from lora_playground.ui import cards
from lora_playground.ui.words import count, escape
from lora_playground.wording import counted

SHOWN = 3
SAMPLE = 2000
"""Number of rows that are tokenised: enough for a histogram of lengths, few enough for half a second."""
_BARS = 12


class Preview:
    """The folded section below the dataset's first rows."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def build(self) -> None:
        """Makes it where it is called."""
        with gr.Accordion(
            "As the model sees it", open=False, elem_classes="lp-fold", elem_id="lp-preview-fold"
        ) as self.fold:
            self.shown = gr.HTML("", apply_default_css=False, elem_id="lp-preview")

    def connect(self, dataset: gr.Dropdown, source: gr.Dropdown, length: Any) -> None:
        """Fills it when it is opened, from the inputs for dataset, base model and greatest length."""

        def show(name: str | None, model: str | None, longest: Any) -> str:
            return preview(self._home, name or "", model or "", longest)

        self.fold.expand(show, [dataset, source, length], self.shown, show_progress="minimal", api_visibility="private")
        gr.on(
            [dataset.change, source.change, length.change], lambda: (gr.update(open=False), ""), None,
            [self.fold, self.shown], queue=False, show_progress="hidden", api_visibility="private",
        )  # fmt: skip


def preview(home: Path, name: str, model: str, longest: Any) -> str:
    """The preview as HTML, or the reason why there is none."""
    try:
        dataset = get_dataset(name, home)
        folder = folder_of(model)
        if folder is None:
            return cards.warning("The model is not on this disk yet; its template is known after it was fetched.")
        limit = int(longest) if isinstance(longest, int | float) and longest >= 1 else 256
        tokenizer = PlainTokenizer(folder)
        rows = dataset.train[:SAMPLE]
        whole = encode(tokenizer, rows, 1_000_000).examples
        found = encode(tokenizer, rows, limit)
    except PlaygroundError as failure:
        return cards.error(str(failure))
    template = "its own chat template" if tokenizer.own_template else "a plain template, since it has none of its own"
    learned = found.learned / max(1, found.tokens)
    lengths = [len(example.ids) for example in whole]
    sentence = (
        f"The model reads each example in {template}. It learns to say what is marked ({learned:.0%} of the tokens), "
        "and the mark that ends an answer, which stops it later."
    )
    if thinks(tokenizer.chat_template):
        sentence += " It is asked to answer without thinking first, here and in Chat."
    texts = "".join(_example(tokenizer, example) for example in found.examples[:SHOWN])
    odd = _counts(rows, len(dataset.train), found, limit)
    head = "".join(f'<p class="lp-note">{escape(text)}</p>' for text in (sentence, *found.notes()))
    return f'<div class="lp-seen">{head}{texts}{histogram(lengths, limit)}{odd}</div>'


def _example(tokenizer: PlainTokenizer, example: Example) -> str:
    parts = [
        f"<mark>{escape(text)}</mark>" if learned else escape(text) for text, learned in coloured(tokenizer, example)
    ]
    return f'<pre tabindex="0">{"".join(parts)}</pre>'


def histogram(lengths: Sequence[int], limit: int) -> str:
    """Lengths in tokens as bars, those above `limit` in another colour, and the same in words."""
    if not lengths:
        return ""
    ordered = sorted(lengths)
    width = max(1, -(-max(ordered[-1], 1) // _BARS))
    bins = [0] * (-(-(ordered[-1] + 1) // width))
    for value in ordered:
        bins[value // width] += 1
    top = max(bins)
    tall = [max(3.0, 100 * many / top) if many else 0.0 for many in bins]
    bars = "".join(
        f'<i class="{"cut" if place * width >= limit else ""}" '
        f'style="height:{tall[place]:.0f}%" title="{place * width} to {(place + 1) * width - 1} tokens: '
        f'{many}"></i>'
        for place, many in enumerate(bins)
    )
    middle = ordered[len(ordered) // 2]
    words = f"Lengths: {ordered[0]} to {ordered[-1]} tokens, half of them up to {middle}."
    return f'<div class="lp-lengths" role="img" aria-label="{words}">{bars}</div><p class="lp-note">{words}</p>'


def _counts(rows: Sequence[Row], total: int, seen: Encoded, limit: int) -> str:
    """Sentences on rows that are truncated, double or left out."""
    texts = [json.dumps(row.get("messages") or row.get("text"), sort_keys=True) for row in rows]
    double = len(texts) - len(set(texts))
    found = []
    if seen.truncated:
        found.append(
            f"{counted(seen.truncated, 'is', count(seen.truncated), 'are')} longer than {limit} tokens and will be "
            "cut (data.max_length)."
        )
    if seen.unlearnable:
        found.append(
            f"{counted(seen.unlearnable, 'has', count(seen.unlearnable), 'have')} nothing to learn within {limit} "
            "tokens and will be left out."
        )
    if seen.thoughts:
        found.append(
            f"{counted(seen.thoughts, 'answer begins', count(seen.thoughts), 'answers begin')} with a thought, which "
            "is left out."
        )
    if double:
        found.append(f"{counted(double, 'repeats', count(double), 'repeat')} an earlier row.")
    looked = (
        f"All {count(total)} rows were"
        if len(rows) == total
        else f"The first {count(len(rows))} of {count(total)} rows were"
    )
    looked, fine = (
        ("The one row was", "it is not cut, empty or double.")
        if total == 1
        else (looked, "none is cut, empty or double.")
    )
    remarks = " ".join(found) or fine
    return f'<p class="lp-note">{escape(f"{looked} looked at: {remarks}")}</p>'
