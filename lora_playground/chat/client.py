"""The client of the chat process: sends requests and streams the answers; starts the process, and restarts it if it
died.

Web process and command line use it, so it imports no torch. It knows the protocol, not the models.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from lora_playground.chat.protocol import MAX_LINE, ChatEvent, ChatRequest, Reading, line
from lora_playground.config import ModelConfig
from lora_playground.errors import ChatError
from lora_playground.machine import processes
from lora_playground.runs import HOME_VARIABLE, default_home

RESTARTS, WINDOW = 5, 600.0
"""After RESTARTS crashes within WINDOW seconds the chat process is not restarted for a while."""
START_SECONDS = 60.0


class ChatClient:
    """The web process's side of the chat.

    Args:
        home: folder of the runs; None is the default home.
        device: 'auto', 'cpu', 'cuda'.

    Attributes:
        restarts: how often the chat process was restarted after it had ended by itself.
    """

    def __init__(self, home: Path | str | None = None, device: str = "auto") -> None:
        self.home, self.device = Path(home) if home else default_home(), device
        self.restarts = 0
        self._crashes: list[float] = []
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="lora-chat-"))
        self._socket = self._folder / "0"
        self._writers: dict[str, asyncio.StreamWriter] = {}

    async def stream(self, request: ChatRequest, key: str | None = None) -> AsyncIterator[ChatEvent]:
        """Sends a request, and yields events until 'end' or 'error'.

        If the chat process dies meanwhile it is restarted, 'restarted' is yielded, and the request is sent again; with
        the same seed the answer is the same. Closing the iterator cancels the request.

        Args:
            key: a name for `cancel`.
        """
        for attempt in (1, 2):
            process = None
            try:
                process, reader, writer = await self._connect()
                try:
                    if key is not None:
                        self._writers[key] = writer
                    writer.write(line({"ask": json.loads(request.model_dump_json())}))
                    await writer.drain()
                    while data := await reader.readline():
                        event = ChatEvent.model_validate_json(data)
                        yield event
                        if event.type in ("end", "error"):
                            return
                finally:
                    if key is not None and self._writers.get(key) is writer:
                        del self._writers[key]
                    writer.close()
            except ConnectionError:
                pass
            except ChatError as error:
                yield ChatEvent(type="error", text=str(error))
                return
            died = await asyncio.to_thread(_how_it_died, process)
            if attempt == 1:
                yield ChatEvent(type="restarted", text=f"The chat process {died}; it is started again and asked anew.")
        yield ChatEvent(
            type="error",
            text=f"The chat process {died} twice at this question. Ask something shorter or with fewer panes.",
        )

    def cancel(self, key: str) -> None:
        """Cancels the request with this key before its next token; its stream still yields how the panes ended. Call it
        on the event loop that runs `stream`."""
        writer = self._writers.get(key)
        if writer is not None and not writer.is_closing():
            writer.write(line({"cancel": True}))

    def ask(self, request: ChatRequest) -> Iterator[ChatEvent]:
        """Like `stream`, for callers without an event loop."""
        with asyncio.Runner() as runner:
            stream = self.stream(request)
            try:
                while True:
                    try:
                        yield runner.run(_next(stream))
                    except StopAsyncIteration:
                        return
            finally:
                runner.run(stream.aclose())  # type: ignore[attr-defined]

    async def warm(self, base: ModelConfig | None = None) -> None:
        """Starts the process and loads a base ahead of the first question."""
        await self._tell({"warm": base.model_dump(mode="json") if base else {}})

    async def read(self, reading: Reading) -> dict[str, Any]:
        """Reads a singular direction (`models.direction_reader`). Raises ChatError with a message for the person."""
        reply = await self._tell({"read": reading.model_dump(mode="json")})
        if "reading" not in reply:
            raise ChatError(str(reply.get("text") or "The chat process ended; ask once more."))
        return dict(reply["reading"])

    async def state(self) -> dict[str, Any]:
        """The state of the process: pid, bases in memory, rows being decoded, waiting requests."""
        return await self._tell({"state": True})

    async def _tell(self, message: dict[str, Any]) -> dict[str, Any]:
        _, reader, writer = await self._connect()
        try:
            writer.write(line(message))
            await writer.drain()
            return json.loads(await reader.readline() or b"{}")
        finally:
            writer.close()

    @property
    def pid(self) -> int | None:
        """The chat process's id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def close(self) -> None:
        """Ends the chat process."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()  # the process ends when its standard input closes
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                processes.signal_group(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the chat process unless it is running. Raises ChatError if it has crashed too often."""
        with self._lock:
            process = self._process
            if process is not None and process.poll() is None:
                return process
            if process is not None and process.returncode != 0:
                self._note_crash()
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._socket = self._folder / f"{time.monotonic_ns() % 10**10}"
            self._process = self._spawn()
            return self._process

    def _note_crash(self) -> None:
        now = time.monotonic()
        self._crashes = [at for at in self._crashes if now - at < WINDOW]
        if len(self._crashes) >= RESTARTS:
            raise ChatError(
                f"The chat process ended {RESTARTS} times within {WINDOW / 60:.0f} minutes and is left alone for now. "
                f"Its log is {self.log_path}; try again in a few minutes."
            )
        self._crashes.append(now)
        self.restarts += 1

    @property
    def log_path(self) -> Path:
        """The file with the chat process's output."""
        return self.home / "chat.log"

    def _spawn(self) -> subprocess.Popen[bytes]:
        given = ("--socket", str(self._socket), "--home", str(self.home), "--device", self.device)
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            big = self.log_path.exists() and self.log_path.stat().st_size > 1_000_000
            with open(self.log_path, "wb" if big else "ab") as log:
                return processes.start(
                    processes.python("lora_playground.chat.host", *given),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    # NumPy decomposes small matrices here: with threads of its own it and torch wait for each other.
                    environment={HOME_VARIABLE: str(self.home), "OPENBLAS_NUM_THREADS": "1"},
                )
        except OSError as error:
            raise ChatError(f"The chat process cannot be started ({error}). Choose another home folder.") from error

    async def _connect(self) -> tuple[subprocess.Popen[bytes], asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the process, which is started if needed. Raises ConnectionError if it dies meanwhile."""
        process = self.start()
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            try:
                return process, *await asyncio.open_unix_connection(str(self._socket), limit=MAX_LINE)
            except (FileNotFoundError, ConnectionRefusedError):
                if process.poll() is not None:
                    process = self.start()
                await asyncio.sleep(0.03)
        raise ChatError(f"The chat process does not answer after {START_SECONDS:.0f} s; look into {self.log_path}.")


async def _next(stream: AsyncIterator[ChatEvent]) -> ChatEvent:
    return await stream.__anext__()


def _how_it_died(process: subprocess.Popen[bytes] | None) -> str:
    """A sentence about a process that has closed its connection; waits a moment for its exit status."""
    if process is None:
        return "ended"
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        return "closed the connection"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed ({signal.Signals(-code).name})"
    return f"ended with status {code}"
