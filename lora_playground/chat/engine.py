"""The chat process's engine: a thread that loads bases and adapters, and one that decodes all requests on a base as one
batch.

It knows runs and decoding; nothing of sockets.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import lora_playground.variants  # noqa: F401  (declares the options that a run's config is read with)
from lora_playground.chat.adapters import Adapters, base_of
from lora_playground.chat.memory_check import check_memory, decoding_dtype, decoding_threads
from lora_playground.chat.protocol import ChatRequest, Reading, Verified
from lora_playground.chat.requests import Answer, Exchange
from lora_playground.config import ModelConfig
from lora_playground.errors import PlaygroundError
from lora_playground.models.base_check import BaseCheck
from lora_playground.models.decoding import Batch, Decoder, Row, RowUpdate, Token
from lora_playground.models.direction_reader import DirectionReader
from lora_playground.models.loading import Base, load_base
from lora_playground.models.placed_update import PlacedUpdate
from lora_playground.runs import RunStore

log = logging.getLogger(__name__)

DEADLINE = 180.0
"""Seconds after which an answer is ended."""
MAX_ROWS = 96
"""The most rows decoded at once on a base; further requests wait."""
MAX_WAITING = 400
MAX_WAITING_PER_CLIENT = 8
BASES = 2
"""How many bases stay in memory."""


class Hosted:
    """A base in memory with its adapters and the batch of rows that it is decoding.

    Args:
        threads: number of threads of a matrix product.

    Attributes:
        active: {id of a row in the batch: (its exchange, its answer)}. used: monotonic time of its last answer.
    """

    def __init__(self, base: Base, threads: int, store: RunStore, source: str) -> None:
        self.base, self.threads = base, threads
        self.decoder = Decoder(base.model, base.tokenizer)
        self.check = BaseCheck(base, self.decoder)
        self.batch: Batch = self.decoder.batch()
        self.adapters = Adapters(store, base.model, source)
        self.reader = DirectionReader(self.decoder)
        self.active: dict[int, tuple[Exchange, Answer]] = {}
        self.exchanges: list[Exchange] = []
        self.used = time.monotonic()
        self._names: dict[int, str] = {}

    def name(self, token: int) -> str:
        """A token's text, also of control tokens."""
        if token not in self._names:
            self._names[token] = self.base.tokenizer.decode([token])
        return self._names[token]


@dataclass(frozen=True)
class Prepared:
    """An exchange whose base and updates are in memory, and which waits for rows in the base's batch."""

    exchange: Exchange
    hosted: Hosted
    updates: list[RowUpdate | None]


class Engine:
    """Answers exchanges until it is closed.

    Args:
        home: has the runs.
        device: 'auto', 'cpu', 'cuda'.
    """

    def __init__(self, home: Path | None = None, device: str = "auto") -> None:
        self.store, self.device = RunStore(home), device
        self._hosted: OrderedDict[tuple[str, str], Hosted] = OrderedDict()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._waiting: list[Prepared] = []  # guarded by the condition
        self._queue: list[Exchange] = []
        self._errands: list[Callable[[], None]] = []  # guarded by the condition
        self._condition = threading.Condition()
        self._closed = False
        self._cut = 0  # number of answers that were cancelled
        self.idle_since = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    def submit(self, exchange: Exchange) -> None:
        """Accepts a request and returns at once. Its events go to the exchange."""
        with self._condition:
            queue = self._queued()
            mine = sum(other.request.client == exchange.request.client for other in queue)
            full = len(queue) >= MAX_WAITING or (exchange.request.client and mine >= MAX_WAITING_PER_CLIENT)
            if not full:
                queue.append(exchange)
        if full:
            exchange.fail("Too many questions are waiting for an answer; wait for one to end, then ask again.")
            return
        self._loader.submit(self._load, exchange)

    def _queued(self) -> list[Exchange]:
        """The exchanges that wait to be answered. The caller must hold the lock."""
        self._queue = [exchange for exchange in self._queue if not (exchange.answers or exchange.finished)]
        return self._queue

    def warm(self, base: ModelConfig) -> None:
        """Loads a base ahead of the first question."""
        self._loader.submit(self._load_ahead, base)

    def read(self, reading: Reading) -> Future[dict[str, Any]]:
        """Reads a singular direction, between two tokens of the answers."""
        done: Future[dict[str, Any]] = Future()
        self._loader.submit(self._load_reading, reading, done)
        return done

    def cancel(self, exchange: Exchange) -> None:
        """Ends an exchange before its next token."""
        exchange.cancelled = True
        with self._condition:
            self._condition.notify()

    def close(self) -> None:
        """Stops the thread after the current token."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join(10)
        self._loader.shutdown(wait=False, cancel_futures=True)

    @property
    def idle_for(self) -> float:
        """Seconds since the last answer; 0 while there is work."""
        with self._condition:
            working = self._queued() or any(hosted.exchanges for hosted in list(self._hosted.values()))
        return 0.0 if working else time.monotonic() - self.idle_since

    # On the loading thread

    def _load_ahead(self, base: ModelConfig) -> None:
        """Loads a base; an error is only logged, since it comes up again when somebody asks."""
        try:
            self._base(base)
        except Exception as error:
            log.warning("The base could not be loaded ahead: %s", error)

    def _load(self, exchange: Exchange) -> None:
        """Loads base and adapters, then passes the exchange to the decoding thread."""
        try:
            if exchange.cancelled:
                exchange.end("cancelled")
                return
            request = exchange.request
            hosted = self._base(base_of(self.store, request.panes, request.base), exchange)
            updates = [hosted.adapters.of(pane) for pane in request.panes]
            with self._condition:
                self._waiting.append(Prepared(exchange, hosted, updates))
                self._condition.notify()
        except PlaygroundError as error:
            exchange.fail(str(error))
        except torch.OutOfMemoryError:
            exchange.fail(_NO_MEMORY)
        except Exception as error:
            log.exception("A request could not be prepared")
            exchange.fail(f"The answer could not be prepared ({type(error).__name__}: {str(error)[:200]}).")
        finally:
            self.idle_since = time.monotonic()

    def _load_reading(self, reading: Reading, done: Future[dict[str, Any]]) -> None:
        """Loads base and adapter, then leaves the rest to the decoding thread, the only one that runs models."""
        try:
            hosted = self._base(self.store.get(reading.run).config().model)
            update = hosted.adapters.update(reading.run)
            with self._condition:
                self._errands.append(lambda: self._read(hosted, update, reading, done))
                self._condition.notify()
        except Exception as error:
            done.set_exception(error)

    def _base(self, config: ModelConfig, exchange: Exchange | None = None) -> Hosted:
        key = config.source, config.quantisation
        hosted = self._hosted.get(key)
        if hosted is None:
            if exchange is not None:
                exchange.status(f"Loading the model {config.source}, the first time only …")
            self._forget_bases()
            check_memory(config, self.device)
            base = load_base(config, device=self.device, dtype=decoding_dtype(config, self.device))
            hosted = self._hosted[key] = Hosted(base, decoding_threads(config, self.device), self.store, config.source)
        self._hosted.move_to_end(key)
        hosted.used = time.monotonic()
        return hosted

    def _forget_bases(self) -> None:
        """Drops bases that no request uses or waits for, oldest first, until another one can be loaded."""
        with self._condition:
            awaited = [item.hosted for item in self._waiting]
        for key, hosted in list(self._hosted.items()):
            if len(self._hosted) < BASES:
                break
            if not hosted.exchanges and hosted not in awaited and time.monotonic() - hosted.used > 5:
                del self._hosted[key]
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()  # memory in torch's cache is not available to other processes

    # On the decoding thread

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._closed or self._waiting or self._errands or self._talking()):
                    self._condition.wait()
                if self._closed:
                    return
                errands, self._errands = self._errands, []
            for errand in errands:
                errand()
            self._admit()
            for hosted in self._talking():
                torch.set_num_threads(hosted.threads)
                self._advance(hosted)

    def _read(self, hosted: Hosted, update: PlacedUpdate, asked: Reading, done: Future[dict[str, Any]]) -> None:
        try:
            torch.set_num_threads(hosted.threads)
            done.set_result(hosted.reader.read(update, asked.module, asked.index, asked.prompt, asked.seed))
        except Exception as error:
            done.set_exception(error)
        hosted.used = self.idle_since = time.monotonic()

    def _talking(self) -> list[Hosted]:
        """The bases with rows in their batch. (A copy, since the loading thread may add bases meanwhile.)"""
        return [hosted for hosted in list(self._hosted.values()) if hosted.exchanges]

    def _admit(self) -> None:
        """Adds waiting requests to batches, first those of clients with the fewest answers in progress."""
        while (chosen := self._next()) is not None:
            self._join(chosen)
            with self._condition:  # only after joining, since a base with waiting requests is not dropped
                self._waiting.remove(chosen)

    def _next(self) -> Prepared | None:
        """The request to add next, None if there is none; removes cancelled ones."""
        now = [exchange.request.client for hosted in self._talking() for exchange in hosted.exchanges]
        with self._condition:
            self._waiting = [item for item in self._waiting if not self._gave_up(item.exchange)]
            waiting = list(self._waiting)
        fair = sorted(waiting, key=lambda item: (now.count(item.exchange.request.client), item.exchange.arrived))
        return next((item for item in fair if _has_place(item.hosted, item.exchange.request)), None)

    def _gave_up(self, exchange: Exchange) -> bool:
        if exchange.cancelled:
            exchange.end("cancelled")
        elif time.monotonic() - exchange.arrived > DEADLINE:
            exchange.fail("So many are asking that this question was not reached in time; ask again.")
        return exchange.finished

    def _join(self, item: Prepared) -> None:
        exchange, hosted = item.exchange, item.hosted
        try:
            torch.set_num_threads(hosted.threads)
            drift = hosted.check.drift(item.updates)
            exchange.verified = Verified(ok=drift <= hosted.check.limit, drift=drift)
            hosted.batch.add(exchange.prepare(hosted.decoder, item.updates))
        except PlaygroundError as error:
            exchange.fail(str(error))
            return
        except Exception as error:
            log.exception("A request could not join")
            exchange.fail(_NO_MEMORY if isinstance(error, torch.OutOfMemoryError) else _BROKEN.format(error))
            return
        hosted.exchanges.append(exchange)
        for answer in exchange.answers:
            hosted.active[id(answer.row)] = exchange, answer

    def _advance(self, hosted: Hosted) -> None:
        """Decodes one token for all rows of this base."""
        self._drop_ended(hosted)
        try:
            tokens: list[Token] = hosted.batch.step()
        except Exception as error:
            log.exception("Decoding failed")
            text = _NO_MEMORY if isinstance(error, torch.OutOfMemoryError) else _BROKEN.format(error)
            for exchange in hosted.exchanges:
                exchange.fail(text)
            hosted.exchanges, hosted.active, hosted.batch = [], {}, hosted.decoder.batch()
            return
        for token in tokens:
            exchange, answer = hosted.active[id(token.row)]
            exchange.receive(answer, token, hosted.name)
            if answer.ended:
                del hosted.active[id(token.row)]
        self._drop_ended(hosted)
        hosted.used = self.idle_since = time.monotonic()

    def _drop_ended(self, hosted: Hosted) -> None:
        """Removes answers that are complete, were cancelled, or took too long."""
        now = time.monotonic()
        for exchange in hosted.exchanges:
            if not exchange.finished and exchange.cancelled:
                exchange.end("cancelled")
                self._cut += 1
            elif not exchange.finished and now - exchange.arrived > DEADLINE:
                exchange.end("deadline")
        gone = [exchange for exchange in hosted.exchanges if exchange.finished]
        if not gone:
            return
        rows: list[Row] = [row for exchange in gone for row in (*(a.row for a in exchange.answers), *exchange.hidden)]
        hosted.batch.remove(rows)
        for row in rows:
            hosted.active.pop(id(row), None)
        hosted.exchanges = [exchange for exchange in hosted.exchanges if not exchange.finished]

    def state(self) -> dict[str, Any]:
        """The engine's state, for tests and the status line."""
        with self._condition:
            waiting = len(self._queued())
        hosts = list(self._hosted.values())
        return {
            "bases": [key[0] for key in list(self._hosted)],
            "rows": sum(len(hosted.batch.rows) for hosted in hosts),
            "exchanges": sum(len(hosted.exchanges) for hosted in hosts),
            "waiting": waiting,
            "cut": self._cut,
        }


_NO_MEMORY = "The memory is full, so this cannot be answered now; wait until a training run has ended, or close a pane."
_BROKEN = "The answer broke off ({}). Ask again; if it happens again, look into the chat process's log."


def _has_place(hosted: Hosted, request: ChatRequest) -> bool:
    """Whether a request fits into the batch; each pane may need a hidden row of the base beside its own."""
    return not hosted.batch.rows or len(hosted.batch.rows) + 2 * len(request.panes) <= MAX_ROWS
