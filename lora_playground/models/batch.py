"""Decodes rows together, one token for each row in a step. Rows can join and leave between any two steps.

It knows token ids and how they are chosen; an object of `readers` runs the model on them. It knows nothing of text,
runs or panes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lora_playground.errors import ChatError
from lora_playground.models.batched_lora import RowUpdate
from lora_playground.models.readers import CachedReader, Rereader
from lora_playground.models.sampling import Sampling, choose, divergence


@dataclass(eq=False)
class Row:
    """One reply in progress.

    Attributes:
        prompt: token ids, not empty.
        update: ΔW of this row; None is the base.
        sampling: how tokens are chosen; rows that share seed and group share noise.
        max_new_tokens: a limit on the reply.
        stop: token ids that end the reply.
        follow: a row of the same prompt whose tokens this row reads instead of its own choices (teacher forcing).
        compare: a row of the same prompt, usually the base's, to which KL and top 5 are reported as long as both have
            read the same tokens.
        shadow: whether to add a hidden row once their tokens differ, with `compare`'s update, which reads this row's
            tokens, so that the comparison continues with equal context.
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
    """The result of a step for one row.

    Attributes:
        token: the token that the row reads next: its own choice, or that of the row it follows.
        choice: its own choice.
        finished: 'stop' (an end token, not part of the reply), 'length', or None.
        logprob: log-probability (nats, temperature 1) of `token` in this row; None without detail.
        top: five most probable (token, log-probability), best first.
        kl: KL(this row ‖ compared row) in nats with equal context; None without one.
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


class Batch:
    """A batch that decodes with one model.

    Args:
        reader: runs the model. context: the most tokens that the model can read.

    Attributes:
        rows: the rows that are not finished, hidden ones among them.
    """

    def __init__(self, reader: CachedReader | Rereader, context: int) -> None:
        self._reader, self.context = reader, context
        self.rows: list[Row] = []
        self._joining: list[Row] = []  # their prompts are read at the next step
        self._active: list[Row] = []  # row i is row i of the reader
        self._next: list[int] = []  # the token that each active row reads next

    def add(self, rows: Sequence[Row]) -> None:
        """Adds rows, which join at the next step. Raises ChatError for a prompt that is empty or fills the context."""
        for row in rows:
            if not row.prompt:
                raise ChatError("There is nothing to answer: the prompt is empty.")
            if len(row.prompt) >= self.context:
                raise ChatError(
                    f"The conversation has {len(row.prompt)} tokens; this model reads at most "
                    f"{self.context - 1}. Shorten it or start a new one."
                )
        self._joining.extend(rows)
        self.rows.extend(rows)

    @torch.no_grad()
    def remove(self, rows: Sequence[Row]) -> None:
        """Removes rows, with the hidden rows that follow them."""
        gone = {id(row) for row in rows}
        gone |= {id(row) for row in self.rows if row.hidden and row.follow is not None and id(row.follow) in gone}
        self._joining = [row for row in self._joining if id(row) not in gone]
        for index in reversed(range(len(self._active))):
            if id(self._active[index]) in gone:
                self._drop(index)
        self.rows = [row for row in self.rows if id(row) not in gone]

    @torch.no_grad()
    def step(self) -> list[Token]:
        """Decodes one token for every row. Rows that end are removed from the batch.

        The model must be in eval mode (`Decoder.evaluating`).
        """
        return self._take(self.read()) if self.rows else []

    @torch.no_grad()
    def read(self, tokens: Sequence[int] | None = None) -> torch.Tensor:
        """The first half of `step`: reads one token of each row and the prompts of those who join.

        Args:
            tokens: are read by the active rows in place of the tokens that they chose.

        Returns:
            Logits (rows, V), float32, in the order of the batch.
        """
        if tokens is not None:
            self._next = list(tokens)
        logits = []
        if self._active:
            logits.append(self._reader.tokens(self._next, [row.update for row in self._active]))
        if self._joining:
            joining, self._joining = self._joining, []
            self._active.extend(joining)
            logits.append(self._reader.prompts([row.prompt for row in joining], [row.update for row in joining]))
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _take(self, logits: torch.Tensor) -> list[Token]:
        """Chooses tokens by logits (rows, V), reports, adds hidden rows, and removes finished rows."""
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
                full = len(row.prompt) + len(row.tokens) >= self.context
                if len(row.tokens) >= row.max_new_tokens or full:
                    row.finished = "length"
            if row.finished:
                leaving.append(row)
            if not row.hidden:
                out.append(Token(row, token, choices[index], row.finished, **reports.get(index, {})))
        self._next = tokens
        self._part(tokens, position)
        self.remove(leaving)
        return out

    def _part(self, tokens: list[int], position: dict[int, int]) -> None:
        """For rows whose token has just differed from that of the row they are compared with: adds a hidden row, or
        ends the comparison."""
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
        """Log-probabilities, top 5 and KL of rows with `detail`."""
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

    def _fork(self, source: int, row: Row, token: int) -> None:
        """Adds `row` as a copy of active row `source`, about to read `token`."""
        self._reader.fork(source)
        self._active.append(row)
        self.rows.append(row)
        self._next.append(token)

    def _drop(self, index: int) -> None:
        """Removes an active row; the last row takes its index."""
        self._reader.drop(index)
        row, token = self._active.pop(), self._next.pop()
        if index < len(self._active):
            self._active[index], self._next[index] = row, token


def _leader(row: Row) -> Row:
    return row if row.follow is None else _leader(row.follow)
