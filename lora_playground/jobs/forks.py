"""The server's side of the fork server (`jobs.fork_server`): starts it, asks it for workers, learns how they ended.

It knows processes and pipes; `jobs.worker` is what a worker does. It imports no torch.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import time
from pathlib import Path
from typing import Any

from lora_playground.errors import JobError
from lora_playground.jobs.handle import TOKEN_VARIABLE, Handle, Worker
from lora_playground.machine.device import gpus
from lora_playground.machine.processes import python, signal_group, start, started_at
from lora_playground.runs import HOME_VARIABLE

PATIENCE = 180.0
"""Seconds that the imports may take; after that workers are started without a fork server."""
_ANSWER = 10.0
"""Seconds that a ready fork server may take to fork a child."""


class Forks:
    """At most one fork server, restarted when it has died.

    Args:
        home: its `worker.log` gets what is printed before a run is known.

    Attributes:
        broken: whether it failed to start, so that waiting for it is of no use.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._server: Any = None  # the Popen
        self._socket: socket.socket | None = None
        self._ended: dict[int, int] = {}
        self._forked: list[int] = []
        self._is_ready, self._since = False, 0.0
        self.broken = False

    @staticmethod
    def possible() -> bool:
        """Whether this machine can use a fork server: it has Linux and no GPU."""
        return hasattr(os, "pidfd_open") and hasattr(socket, "SOCK_SEQPACKET") and not gpus()

    def start(self) -> None:
        """Starts the fork server unless it is running. Raises JobError if the system refuses."""
        if self.broken or (self._server is not None and self._server.poll() is None):
            return
        if self._server is not None and not self._is_ready:
            self.broken = True  # it ended before it was ready, and would do so again
            return
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with open(self._home / "worker.log", "wb") as output:
                self._server = start(
                    python("lora_playground.jobs.fork_server", "--socket", str(theirs.fileno())),
                    stdout=output,
                    keep_open=(theirs.fileno(),),
                    environment={
                        TOKEN_VARIABLE: secrets.token_hex(8),
                        HOME_VARIABLE: str(self._home),
                        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
                        "OPENBLAS_NUM_THREADS": "1",  # NumPy's threads and torch's would wait for each other
                    },
                )
        except OSError as error:
            ours.close()
            raise JobError(
                f"No worker process can be started ({error}). Close other programs and try again."
            ) from error
        finally:
            theirs.close()
        ours.setblocking(False)
        self._socket, self._is_ready, self._since = ours, False, time.monotonic()

    def ready(self) -> bool:
        """Whether a worker can be forked at once. Starts the fork server if it is not running."""
        self.start()
        self._hear()
        if not self._is_ready and not self.broken and time.monotonic() - self._since > PATIENCE:
            self.close()
            self.broken = True
        return self._is_ready and self._socket is not None and not self.broken

    def fork(self) -> Worker | None:
        """A new worker; None if the fork server is gone or does not answer."""
        if self._socket is None:
            return None
        token = secrets.token_hex(8)
        read, write = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps({"token": token}).encode()], [read])
            pid = self._answer()
        except OSError:
            pid = None
        finally:
            os.close(read)
        if pid is None:
            os.close(write)  # a child that is forked too late finds its pipe closed, and ends
            self.close()
            return None
        os.set_blocking(write, False)
        parent = self._socket
        return Worker(Handle(pid, started_at(pid), token), write, lambda: self._status(pid, parent))

    def _status(self, pid: int, parent: socket.socket | None) -> int | None:
        """The exit status of a child, None while it runs. If the fork server died first the status is unknown, and the
        child counts as killed."""
        self._hear()
        if pid not in self._ended and self._socket is not parent and not started_at(pid):
            self._ended[pid] = -signal.SIGKILL
        return self._ended.get(pid)

    def close(self) -> None:
        """Ends the fork server; its children continue."""
        if self._socket is not None:
            self._hear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._server is not None:
            if self._server.poll() is None:
                signal_group(self._server.pid, signal.SIGKILL)
            self._server.wait(5)

    @property
    def pid(self) -> int | None:
        """The fork server's process id, None while there is none."""
        return self._server.pid if self._server is not None and self._server.poll() is None else None

    def _answer(self) -> int | None:
        deadline = time.monotonic() + _ANSWER
        while time.monotonic() < deadline and self._socket is not None:
            self._hear()
            if self._forked:
                return self._forked.pop()
            time.sleep(0.002)
        return None

    def _hear(self) -> None:
        """Reads the fork server's messages. If it is gone, closes its socket."""
        while self._socket is not None:
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._socket.close()
                self._socket = None
                return
            message = json.loads(data)
            if "ended" in message:
                self._ended[message["ended"]] = message["status"]
            elif "forked" in message:
                self._ended.pop(message["forked"], None)  # the status of an earlier process with the same id
                self._forked.append(message["forked"])
            else:
                self._is_ready = True
