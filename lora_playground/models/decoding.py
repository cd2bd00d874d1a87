"""Answers of one model: from conversations to texts, many at once, every one with its own update or none.

It knows a Hugging Face causal LM and its tokenizer, one copy of W; nothing of runs, panes or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch

from lora_playground.analysis.update import Update
from lora_playground.errors import ChatError
from lora_playground.models.batch import Batch, Row, Token
from lora_playground.models.batched_lora import RowUpdate, batch_update
from lora_playground.models.forward_check import agrees
from lora_playground.models.llama_forward import LlamaForward, fits
from lora_playground.models.model_shape import context_length
from lora_playground.models.placed_update import PlacedUpdate
from lora_playground.models.prompts import prompt_ids, stop_ids
from lora_playground.models.readers import CachedReader, Rereader
from lora_playground.models.sampling import Sampling
from lora_playground.models.transformers_forward import TransformersForward, length_matters

__all__ = ["Batch", "Decoder", "PlacedUpdate", "Row", "RowUpdate", "Sampling", "Token"]

Updates = RowUpdate | Sequence[Update] | Sequence[RowUpdate | None] | None

WIDTH = 48
"""Rows decoded at once by `generate`: more gain little on a CPU and hold more memory."""


class Decoder:
    """Decodes with one model. Not for use by two threads at once.

    Args:
        model: a Hugging Face causal LM, plain, quantised, or with an active PEFT adapter (which is then part of what
            this decoder calls the base).
        tokenizer: its tokenizer.

    Attributes:
        stop: token ids that end a reply.
        context: the most tokens that the model can read.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.stop = stop_ids(model, tokenizer)
        self.context = context_length(model.config.to_dict()) or 1 << 20
        self.device = next(model.parameters()).device
        self._transformers = TransformersForward(model)
        self._llama: LlamaForward | None = None
        if self.device.type == "cpu" and fits(model):
            with self.evaluating():
                plain = LlamaForward(model)
                self._llama = plain if agrees(plain) else None

    @property
    def forward(self) -> LlamaForward | TransformersForward:
        """The forward pass: the plain one if it fits the model at the moment, else transformers' own."""
        return self._llama if self._llama is not None and fits(self.model) else self._transformers

    @cached_property
    def keeps(self) -> bool:
        """Whether the forward pass gives the same logits with padding and a cache of keys and values as without. If
        not, the whole text is read again for every token."""
        with self.evaluating():
            return not length_matters(self.model) and agrees(self._transformers)

    def adapter(self, updates: Sequence[Update], name: str = "adapter") -> PlacedUpdate:
        """Places updates on the model, for use in `RowUpdate`. Raises ModelError if they do not fit."""
        return PlacedUpdate(self.model, updates, name)

    def encode(self, conversation: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, ending where the assistant's reply begins."""
        return prompt_ids(self.tokenizer, conversation)

    def batch(self) -> Batch:
        """An empty batch, to which rows can be added at any time."""
        forward = self.forward
        if isinstance(forward, LlamaForward) or self.keeps:
            return Batch(CachedReader(forward), self.context)
        return Batch(Rereader(forward), self.context)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode without gradients within the block; afterwards every module is in its earlier mode."""
        training = [module for module in self.model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            # Not inference_mode: tensors that a module caches, such as rotations, could then not be used in training.
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True

    def generate(
        self,
        conversations: Sequence[Sequence[dict[str, str]]],
        updates: Updates = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[str]:
        """Replies to many conversations at once.

        Args:
            conversations: lists of {"role", "content"}; the reply to the last message is generated. A conversation that
                is too long for the model's context loses its first tokens.
            updates: None (base), one list of `Update` or one `RowUpdate` for all, or one `RowUpdate` or None for each.
            temperature: 0 is greedy. The noise of conversation i depends on (seed, i) and the step alone.
            should_stop: called before every token; once it returns true, all replies end.

        Returns:
            The replies in the order of the conversations, without special tokens.
        """
        per_row = self._row_updates(updates, len(conversations))
        rows = []
        for index, conversation in enumerate(conversations):
            ids = self.encode(conversation)
            keep = max(1, self.context - max_new_tokens)
            sampling = Sampling(temperature, top_p, seed, index)
            rows.append(Row(ids[-keep:], per_row[index], sampling, max_new_tokens, self.stop))
        # Sorted by length, so that there is little padding; the longest first, so that the buffers never have to grow.
        waiting = sorted(rows, key=lambda row: -len(row.prompt))
        with self.evaluating():
            batch = self.batch()
            while (waiting or batch.rows) and not (should_stop and should_stop()):
                if waiting and len(batch.rows) <= WIDTH // 2:
                    free = WIDTH - len(batch.rows)
                    # Rows with the same update are neighbours, so that it is added to a slice without copies.
                    batch.add(sorted(waiting[:free], key=lambda row: id(row.update)))
                    del waiting[:free]
                batch.step()
        return [self.text(row.tokens) for row in rows]

    def text(self, tokens: Sequence[int]) -> str:
        """A reply's text, without special tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def logits(self, ids: Sequence[int], update: RowUpdate | None = None) -> torch.Tensor:
        """Logits (T, V), float32, of a sequence, without cache; for the fingerprint and tests."""
        with self.evaluating(), batch_update(self.model, [update]).applied(len(ids)):
            input_ids = torch.tensor([list(ids)], device=self.device)
            return self.model(input_ids=input_ids, use_cache=False).logits[0].float()

    def next_logits(self, prompts: Sequence[Sequence[int]], updates: Sequence[RowUpdate | None]) -> torch.Tensor:
        """Logits (R, V), float32, of the token after each prompt, all read in one batch."""
        batch = self.batch()
        batch.add([Row(list(prompt), update) for prompt, update in zip(prompts, updates, strict=True)])
        with self.evaluating():
            return batch.read()

    def _row_updates(self, updates: Updates, count: int) -> list[RowUpdate | None]:
        if updates is None or isinstance(updates, RowUpdate):
            return [updates] * count
        items = list(updates)
        if items and all(isinstance(item, Update) for item in items):
            return [RowUpdate(self.adapter(items))] * count  # type: ignore[arg-type]
        if len(items) != count:
            raise ChatError(
                f"{len(items)} updates were given for {count} conversations; give one for each, or one for all."
            )
        return items  # type: ignore[return-value]
