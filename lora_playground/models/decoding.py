"""Lock-step decoding: many conversations, one forward pass a token, one copy of W, every row with its own update.

It knows a Hugging Face causal LM and its tokenizer; nothing of runs, panes or files.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from lora_playground.analysis.update import Update
from lora_playground.errors import ChatError
from lora_playground.models.batched_lora import Plan, Planner, RowUpdate
from lora_playground.models.fused import TOKENS, Fused, prepare
from lora_playground.models.kv_cache import Buffers, Window
from lora_playground.models.llama_forward import TOLERANCE, LlamaForward, Way, known, lean
from lora_playground.models.placed_update import PlacedUpdate
from lora_playground.models.precision import bounded
from lora_playground.models.prompts import prompt_ids, stop_ids
from lora_playground.models.sampling import Sampling, choose, divergence
from lora_playground.models.step import Step, step

__all__ = ["Batch", "Decoder", "PlacedUpdate", "Row", "RowUpdate", "Sampling", "Token"]

Updates = RowUpdate | Sequence[Update] | Sequence[RowUpdate | None] | None

log = logging.getLogger(__name__)

# Rows decoded at once by `generate`: more gain little on a CPU and hold more memory.
WIDTH = 48


@dataclass(eq=False)
class Row:
    """One reply in the making.

    Attributes:
        prompt: token ids, not empty.
        update: ΔW of this row; None is the base.
        sampling: how tokens are chosen; rows that share seed and group share noise.
        max_new_tokens: a limit on the reply.
        stop: token ids that end the reply.
        follow: a row of the same prompt whose tokens this row reads instead of its own choices (teacher forcing).
        compare: a row of the same prompt, usually the base; KL and its top 5 are reported against it for as long as
            both have read the same tokens.
        shadow: when the two part, keep a hidden row that has `compare`'s update and reads this row's tokens, so that
            the comparison goes on, on equal context.
        detail: report log-probability, top 5, and KL.
        tokens: the reply so far.
    """

    prompt: list[int]
    update: RowUpdate | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 200
    stop: frozenset[int] = frozenset()
    follow: Row | None = None
    compare: Row | None = None
    shadow: bool = False
    detail: bool = False
    tokens: list[int] = field(default_factory=list)
    finished: str | None = None
    hidden: bool = False


@dataclass(frozen=True)
class Token:
    """What one step gave one row.

    Attributes:
        row: whose.
        token: the token read next: its own choice, or that of the row it follows.
        choice: its own choice.
        finished: 'stop' (an end token, not part of the reply), 'length', or None.
        logprob: log-probability (nats, temperature 1) of `token` in this row; None without detail.
        top: five most probable (token, log-probability), best first.
        kl: KL(this row ‖ compared row) in nats on equal context, None where there is none.
        compare_logprob, compare_top: the compared row's, on equal context.
    """

    row: Row
    token: int
    choice: int
    finished: str | None
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    kl: float | None = None
    compare_logprob: float | None = None
    compare_top: list[tuple[int, float]] | None = None


class Decoder:
    """Decodes with one model. Not for use by two threads at once.

    Args:
        model: a Hugging Face causal LM, plain, quantised, or with a live PEFT adapter (which then belongs to "the base"
            of this decoder: hooks come on top).
        tokenizer: its tokenizer.
        settled: the model is only read from now on, so its weights may be laid side by side for speed (their values
            and shapes stay; only their strides change).
    """

    def __init__(self, model: Any, tokenizer: Any, settled: bool = False) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.stop = stop_ids(model, tokenizer)
        self.context = context_length(model)
        self.device = next(model.parameters()).device
        self._lean: LlamaForward | None = lean(model)
        self.planner = Planner(model, keep=8) if settled else None
        self._compiled = False  # whether compiled code was there when ways were last compared
        self._agreed: bool | None = None  # whether it gave torch's logits, once that was looked at
        if self._lean is not None and settled:
            self._lean.arrange()
            if self._lean.fuse() and self._ready(0.0):
                self._lean.way = "fused"
        self.options = {"logits_to_keep": 1} if _accepts(model, "logits_to_keep") else {}

    @property
    def lean(self) -> LlamaForward | None:
        """The short forward pass, where the model (still) is one that it knows; else transformers' own is used."""
        return self._lean if self._lean is not None and known(self.model) else None

    def adapter(self, updates: Sequence[Update], name: str = "adapter") -> PlacedUpdate:
        """Places updates on the model, for use in `RowUpdate`; raises ModelError where they do not fit."""
        return PlacedUpdate(self.model, updates, name)

    def encode(self, conversation: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, ending where the assistant's reply begins."""
        return prompt_ids(self.tokenizer, conversation)

    def batch(self) -> Batch:
        """An empty batch, to which rows can be added at any time."""
        return Batch(self)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode without gradients; afterwards every module has the mode it had."""
        training = [module for module in self.model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            # Not inference_mode: a module that caches what it computes (rotations, norms) would later meet inference
            # tensors in a training step.
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
            conversations: lists of {"role", "content"}; the reply to the last message is generated. One that leaves no
                room in the model's context loses its first tokens.
            updates: None (base), one list of `Update` or one `RowUpdate` for all, or one `RowUpdate` or None for each.
            temperature: 0 is greedy. The noise of conversation i depends on (seed, i) and the step alone.
            should_stop: asked before every token; when true, the replies end where they are.

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
        # Neighbours of like length need little padding; long ones first, so that the batch never has to grow.
        waiting = sorted(rows, key=lambda row: -len(row.prompt))
        with self.evaluating():
            batch = self.batch()
            while (waiting or batch.rows) and not (should_stop and should_stop()):
                if waiting and len(batch.rows) <= WIDTH // 2:
                    room = WIDTH - len(batch.rows)
                    batch.add(waiting[:room])
                    del waiting[:room]
                batch.step()
        return [self.text(row.tokens) for row in rows]

    def text(self, tokens: Sequence[int]) -> str:
        """A reply's text, without special tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def logits(self, ids: Sequence[int], update: RowUpdate | None = None) -> torch.Tensor:
        """Logits (T, V), float32, of a sequence without cache; what the fingerprint and tests use."""
        plan = Planner(self.model).plan([update])
        with self.evaluating(), plan.applied():
            input_ids = torch.tensor([list(ids)], device=self.device)
            return self.model(input_ids=input_ids, use_cache=False).logits[0].float()

    def choose_threads(self, wait: float = 0.0) -> tuple[int, float]:
        """Sets the calling thread's number of threads in torch, and the way of multiplying (`lean.Way`), to what
        decodes two rows fastest at this moment: beside a training run one thread can be a hundred times as fast as
        two. Compiled code finds out by itself, with every token, whether help pays. It is tried once it is there;
        `wait` says for how many seconds it is waited for.

        Returns:
            Threads that share a token, and seconds a token.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        most, lean = min(bounded(cores), 8), self._lean
        found: list[tuple[float, int, Way]] = [(self._seconds(1, "whole"), 1, "whole")]
        ways: tuple[Way, ...] = ("whole",) if lean is None else ("spread", "whole")
        for way in ways if most > 1 else ():
            found.append((self._seconds(most, way), most, way))
            if found[-1][0] > 3 * found[0][0]:  # whatever they do, they wait for each other
                break
        seconds, threads, way = min(found)
        sharing = threads
        self._compiled = self._ready(wait)
        if self._compiled and lean is not None and lean.fused is not None:
            lean.fused.threads = most
            fused = self._seconds(threads, "fused")
            if fused < seconds:
                seconds, sharing, way = fused, most, "fused"
        self._use(threads, way)
        return sharing, seconds

    @property
    def outdated(self) -> bool:
        """Whether compiled code has come since `choose_threads` compared what there was."""
        return (
            self._lean is not None
            and self._lean.fused is not None
            and not self._compiled
            and self._agreed is None
            and prepare()
        )

    def _ready(self, wait: float) -> bool:
        """Whether compiled code is there and gives torch's logits for a prompt and a token after it."""
        if self._lean is None or self._lean.fused is None or not prepare(wait):
            return False
        if self._agreed is None:
            before, seen = self._lean.way, list[torch.Tensor]()
            for way in ("whole", "fused"):
                self._lean.way = way  # type: ignore[assignment]
                batch = self.batch()
                batch.add([Row([0, 1, 2, 3]), Row([3, 2])])
                with self.evaluating():
                    prompts = batch.read()
                    batch._pending = [1, 2]
                    seen.append(torch.cat([prompts, batch.read()]))
            self._lean.way = before
            difference = float((seen[1] - seen[0]).abs().max() / seen[0].abs().max().clamp_min(1e-9))
            self._agreed = difference <= TOLERANCE
            if not self._agreed:
                log.warning("Compiled code differs from torch by %.2g; not used.", difference)
        return self._agreed

    def _use(self, threads: int, way: Way) -> None:
        torch.set_num_threads(threads)
        if self._lean is not None:
            self._lean.way = way

    def _seconds(self, threads: int, way: Way) -> float:
        """Median time of a step of two rows."""
        self._use(threads, way)
        batch, times = self.batch(), list[float]()
        batch.add([Row([0, 1, 2, 3], max_new_tokens=10) for _ in range(2)])
        with self.evaluating():
            batch.step()
            while batch.rows and sum(times) < 0.3:
                start = time.perf_counter()
                batch.step()
                times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2]

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


class Batch:
    """Rows that are decoded together. Rows may join and leave between any two steps (continuous batching).

    Attributes:
        rows: rows that are still being decoded, in the batch's order; hidden shadow rows among them.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.rows: list[Row] = []
        self._lean = decoder.lean
        self._joining: list[Row] = []
        self._pending: list[int] = []  # per active row: the token it has to read next
        self._planner = decoder.planner or Planner(decoder.model)
        self._plan: Plan | None = None
        self._step: Step | Fused | None = None
        self._buffers = Buffers()
        self._active: list[Row] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Lets rows join at the next step. Raises ChatError for a prompt that is empty or fills the context."""
        for row in rows:
            if not row.prompt:
                raise ChatError("There is nothing to answer: the prompt is empty.")
            if len(row.prompt) >= self.decoder.context:
                raise ChatError(
                    f"The conversation has {len(row.prompt)} tokens; this model reads at most "
                    f"{self.decoder.context - 1}. Shorten it or start a new one."
                )
        self._joining.extend(rows)
        self.rows.extend(rows)

    @torch.no_grad()
    def remove(self, rows: Sequence[Row]) -> None:
        """Takes rows out, with the shadows that follow them."""
        gone = {id(row) for row in rows}
        gone |= {id(row) for row in self.rows if row.hidden and row.follow is not None and id(row.follow) in gone}
        self._joining = [row for row in self._joining if id(row) not in gone]
        for index in reversed(range(len(self._active))):
            if id(self._active[index]) in gone:
                self._drop(index)
        self.rows = [row for row in self.rows if id(row) not in gone]

    @torch.no_grad()
    def step(self) -> list[Token]:
        """One token for every row; rows that ended have left the batch when it returns.

        The model must be in eval mode (`Decoder.evaluating`).
        """
        return self._settle(self.read()) if self.rows else []

    @torch.no_grad()
    def read(self) -> torch.Tensor:
        """Feeds what is pending and the prompts that join; logits (rows, V) in the order of the batch. `step` does
        this and then chooses."""
        logits = [self._advance()] if self._active else []
        if self._joining:
            logits.append(self._prefill(self._joining))
            self._joining = []
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _settle(self, logits: torch.Tensor) -> list[Token]:
        """Chooses, reports, forks shadows, and lets finished rows leave. logits (rows, V)."""
        rows = self._active
        position = {id(row): index for index, row in enumerate(rows)}
        choices = choose(logits, [row.sampling for row in rows], [len(row.tokens) for row in rows])
        tokens = [
            choices[position[id(_leader(row))]] if id(_leader(row)) in position else choices[index]
            for index, row in enumerate(rows)
        ]
        reports = self._report(logits, tokens, position)
        out, leaving = [], []
        for index, row in enumerate(rows):
            token = tokens[index]
            if token in row.stop:
                row.finished = "stop"
            else:
                row.tokens.append(token)
                full = len(row.prompt) + len(row.tokens) >= self.decoder.context
                if len(row.tokens) >= row.max_new_tokens or full:
                    row.finished = "length"
            if row.finished:
                leaving.append(row)
            if not row.hidden:
                out.append(Token(row, token, choices[index], row.finished, **reports.get(index, {})))
        self._pending = tokens
        self._part(tokens, position)
        self.remove(leaving)
        return out

    def _part(self, tokens: list[int], position: dict[int, int]) -> None:
        """Where a row has just parted from the one it is compared with: forks a shadow, or ends the comparison."""
        for row in list(self._active):
            other = row.compare
            if other is None or row.finished:
                continue
            there = position.get(id(other))
            if there is not None and tokens[there] == tokens[position[id(row)]] and not other.finished:
                continue
            row.compare = None
            if row.shadow and there is not None and not other.hidden:
                shadow = Row(
                    other.prompt,
                    other.update,
                    other.sampling,
                    row.max_new_tokens,
                    row.stop,
                    follow=row,
                    tokens=list(row.tokens),
                    hidden=True,
                )
                self._fork(there, shadow, tokens[position[id(row)]])
                row.compare = shadow

    def _report(self, logits: torch.Tensor, tokens: list[int], position: dict[int, int]) -> dict[int, dict[str, Any]]:
        """Log-probabilities, top 5 and KL of the rows that want them."""
        wanted = [index for index, row in enumerate(self._active) if row.detail and not row.hidden]
        if not wanted:
            return {}
        pairs = {
            i: position[id(self._active[i].compare)]
            for i in wanted
            if self._active[i].compare is not None and id(self._active[i].compare) in position
        }
        used = sorted({*wanted, *pairs.values()})
        slot = {index: k for k, index in enumerate(used)}
        log_p = logits[used].log_softmax(-1)
        values, ids = log_p.topk(min(5, log_p.shape[-1]), -1)
        best = [list(zip(i, v)) for i, v in zip(ids.tolist(), values.tolist())]
        reports: dict[int, dict[str, Any]] = {}
        for i in wanted:
            reports[i] = {"logprob": float(log_p[slot[i], tokens[i]]), "top": best[slot[i]]}
        if pairs:
            kl = divergence(log_p[[slot[i] for i in pairs]], log_p[[slot[j] for j in pairs.values()]]).tolist()
            for (i, j), value in zip(pairs.items(), kl):
                reports[i] |= {
                    "kl": value,
                    "compare_logprob": float(log_p[slot[j], tokens[i]]),
                    "compare_top": best[slot[j]],
                }
        return reports

    def _advance(self) -> torch.Tensor:
        """Feeds every active row its pending token; logits (rows, V)."""
        buffers = self._buffers
        buffers.make_room(buffers.rows, 0)
        if self._plan is None:
            self._plan = self._planner.plan([row.update for row in self._active])
            self._step = step(self._lean, self._plan, buffers.rows)
        if self._step is not None and buffers.whole is not None:
            logits = self._step(buffers, self._pending)
            buffers.end += 1
            return logits
        begin = buffers.begin
        window = Window(buffers, 0, buffers.rows, begin, buffers.end)
        ids = torch.tensor(self._pending)[:, None]
        starts = torch.tensor(buffers.starts)[:, None]
        logits = self._forward(window, self._plan, ids, starts, torch.full_like(ids, buffers.end) - starts)
        buffers.end += 1
        return logits

    def _prefill(self, rows: list[Row]) -> torch.Tensor:
        """Reads the prompts of rows that join; logits (new rows, V) at their last tokens."""
        buffers = self._buffers
        longest = max(len(row.prompt) for row in rows)
        first = buffers.rows
        buffers.make_room(first + len(rows), longest)
        buffers.starts.extend(buffers.end - len(row.prompt) for row in rows)
        plan = self._planner.plan([row.update for row in rows])
        fast = step(self._lean, plan, len(rows)) if self._short(rows) else None
        if isinstance(fast, Fused):
            logits = fast.prompts(buffers, first, [row.prompt for row in rows])
        else:
            logits = self._read_prompts(rows, plan, longest)
        buffers.rows += len(rows)
        self._active.extend(rows)
        self._plan, self._step = (plan, fast) if first == 0 and fast is not None else (None, None)
        return logits

    def _short(self, rows: list[Row]) -> bool:
        """Whether prompts are read fastest by compiled code."""
        compiled = self._lean is not None and self._lean.way == "fused"
        return compiled and sum(len(row.prompt) for row in rows) <= TOKENS

    def _read_prompts(self, rows: list[Row], plan: Plan, longest: int) -> torch.Tensor:
        """Reads padded prompts as one matrix; logits (new rows, V) at their last tokens."""
        buffers = self._buffers
        first, begin = buffers.rows, buffers.end - longest
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, longest - len(row.prompt) :] = torch.tensor(row.prompt)
        starts = torch.tensor(buffers.starts[first:])[:, None]
        positions = (torch.arange(begin, buffers.end)[None] - starts).clamp_min(0)
        window = Window(buffers, first, first + len(rows), begin, begin)
        return self._forward(window, plan, ids, starts, positions)

    def _forward(
        self, window: Window, plan: Plan, ids: torch.Tensor, starts: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """One pass over ids (R, T) at the window's end; starts (R, 1); float32 logits (R, V) of the last column."""
        if self._lean is not None:
            return self._lean(window, plan, ids, starts, positions)
        device = self.decoder.device
        columns = torch.arange(window.begin, window.end + ids.shape[1])[None]
        mask = (columns >= starts).long()
        with plan.applied():
            output = self.decoder.model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                past_key_values=window,
                use_cache=True,
                **self.decoder.options,
            )
        return output.logits[:, -1].float()

    def _fork(self, source: int, row: Row, pending: int) -> None:
        """Adds `row` as a copy of active row `source`, about to read `pending`."""
        buffers = self._buffers
        buffers.make_room(buffers.rows + 1, 0)
        buffers.starts.append(0)
        buffers.rows += 1
        buffers.copy(source, buffers.rows - 1)
        self._active.append(row)
        self.rows.append(row)
        self._pending.append(pending)
        self._plan = None

    def _drop(self, index: int) -> None:
        """Frees an active row's place; the last row moves into it."""
        self._buffers.drop(index)
        row, token = self._active.pop(), self._pending.pop()
        if index < len(self._active):
            self._active[index], self._pending[index] = row, token
        self._plan = None


def _leader(row: Row) -> Row:
    return row if row.follow is None else _leader(row.follow)


def _accepts(model: Any, name: str) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return name in inspect.signature(base.forward).parameters


def context_length(model: Any) -> int:
    """Most tokens the model can read, from its configuration; a large number where it states none."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return 1 << 20
