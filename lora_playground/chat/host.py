"""The chat process: `python -m lora_playground.chat.host --socket PATH`. Listens on a Unix socket, answers in lines of
JSON, and ends when its standard input closes, which is when the server that started it is gone.

It knows sockets and exchanges; the engine knows models and runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.chat.protocol import MAX_LINE, ChatEvent, ChatRequest, Reading, line
from lora_playground.config import ModelConfig, checked
from lora_playground.errors import PlaygroundError

if TYPE_CHECKING:
    from lora_playground.chat.engine import Engine

INTERVAL = 0.14
"""Seconds between two messages with tokens of a request: about seven a second."""
IDLE = 1800.0
"""Seconds without a request after which the process ends, to free its memory."""

log = logging.getLogger(__name__)


class Host:
    """Serves requests on a socket.

    Args:
        home: has the runs.
        device: 'auto', 'cpu', 'cuda'.
    """

    def __init__(self, home: Path | None, device: str) -> None:
        self._home, self._device = home, device
        self._engine: asyncio.Future[Engine] | None = None

    async def engine(self) -> Engine:
        """The engine. The first call imports torch, while the socket already accepts connections."""
        if self._engine is None:
            self._engine = asyncio.get_running_loop().run_in_executor(None, self._make)  # type: ignore[assignment]
        assert self._engine is not None
        return await asyncio.shield(self._engine)

    def _make(self) -> Engine:
        from lora_playground.chat.engine import Engine

        return Engine(self._home, self._device)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection: one line with a request, then lines of events. Closing it cancels the request."""
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        except Exception as error:
            log.exception("A connection failed")
            with contextlib.suppress(ConnectionError):
                writer.write(line(ChatEvent(type="error", text=f"The chat process failed ({type(error).__name__}).")))
                await writer.drain()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            message = json.loads(await reader.readline() or b"null")
        except (ValueError, RecursionError):
            message = None
        try:
            if not isinstance(message, dict):
                raise PlaygroundError("The chat process was asked something that is no JSON object on one line.")
            if "ask" in message:
                await self._ask(ChatRequest.model_validate_json(json.dumps(message["ask"])), reader, writer)
                return
            if "read" in message:
                reading = Reading.model_validate_json(json.dumps(message["read"]))
                found = await asyncio.wrap_future((await self.engine()).read(reading))
                writer.write(line({"reading": found}))
                await writer.drain()
                return
            if "warm" in message:
                (await self.engine()).warm(checked(ModelConfig, message["warm"] or {}, "base"))
            reply: dict[str, Any] = (await self.engine()).state() if "state" in message else {}
            writer.write(line({"pid": os.getpid(), **reply}))
        except PlaygroundError as error:
            writer.write(line(ChatEvent(type="error", text=str(error))))
        except ValueError as error:
            writer.write(line(ChatEvent(type="error", text=f"The request is not valid: {str(error)[:300]}")))
        await writer.drain()

    async def _ask(self, request: ChatRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from lora_playground.chat.requests import Exchange

        engine = await self.engine()
        loop, urgent = asyncio.get_running_loop(), asyncio.Event()
        exchange = Exchange(request, lambda: _wake(loop, urgent))
        listener = asyncio.create_task(_listen(reader, lambda: engine.cancel(exchange)))
        try:
            engine.submit(exchange)
            over = False
            while not over:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(urgent.wait(), INTERVAL)
                urgent.clear()
                for event in exchange.take():
                    writer.write(line(event))
                    over = over or event.type in ("end", "error")
                await writer.drain()
        finally:
            engine.cancel(exchange)
            listener.cancel()


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(event.set)


async def _listen(reader: asyncio.StreamReader, cancel: Any) -> None:
    """Calls `cancel` when the client asks for it or closes the connection."""
    with contextlib.suppress(ConnectionError, ValueError):
        while data := await reader.readline():
            if b'"cancel"' in data:
                break
    cancel()


async def run(socket: Path, home: Path | None, device: str) -> None:
    """Serves until there has been no request for `IDLE` seconds."""
    host = Host(home, device)
    server = await asyncio.start_unix_server(host.serve, path=str(socket), limit=MAX_LINE, backlog=512)
    os.chmod(socket, 0o600)
    preload = asyncio.create_task(host.engine())
    async with server:
        while True:
            await asyncio.sleep(5)
            engine = await preload
            if engine.idle_for > IDLE:
                log.info("Nobody asked for %d s; ending.", IDLE)
                return


def _end_with_parent() -> None:
    """Waits until standard input closes, then ends the process at once."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(0)


def main(arguments: list[str] | None = None) -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser(prog="lora_playground.chat.host", description="Answers chats for the app.")
    parser.add_argument("--socket", type=Path, required=True, help="path of the Unix socket to listen on")
    parser.add_argument("--home", type=Path, default=None, help="folder that holds the runs")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    options = parser.parse_args(arguments)
    # Waiting threads must sleep instead of spinning: beside a training run, those they wait for may get no processor.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(run(options.socket, options.home, options.device))


if __name__ == "__main__":
    main()
