"""A process that imports what training needs once, and forks a worker for each job, so that jobs start without imports.

`python -m lora_playground.jobs.fork_server --socket FD` writes `{"ready": true}` when it has imported everything. For a
message `{"token": TOKEN}`, which comes with the reading end of a control pipe, it forks a child, which writes
`{"forked": PID}`; when the child ends it writes `{"ended": PID, "status": N}`. The child is an ordinary worker
(`jobs.worker`) in a session of its own, for one job. When the socket closes the server is dead and this process ends;
children notice by their own pipes. It uses the CPU only: a process that has begun to use CUDA cannot be forked.

A fork copies only the thread that calls it. OpenBLAS, whose threads run here, handles forks; OpenMP's threads belong to
the thread that did the imports, which has ended before the first fork.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import select
import socket
import sys
import threading
import traceback
import warnings
from typing import NoReturn

from lora_playground.jobs.handle import TOKEN_VARIABLE
from lora_playground.machine.processes import share_the_session, yield_to_others


def main() -> int:
    """Serves until the socket closes; returns the exit status, 1 if the imports fail."""
    parser = argparse.ArgumentParser(prog="python -m lora_playground.jobs.fork_server")
    parser.add_argument("--socket", type=int, required=True, metavar="FD")
    server = socket.socket(fileno=parser.parse_args().socket)
    yield_to_others()
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn about forks while OpenBLAS has threads
    if not _prepared(server):
        return 1
    server.send(json.dumps({"ready": True}).encode())
    _serve(server)
    return 0


def _prepared(server: socket.socket) -> bool:
    """Imports everything in a thread, and ends the process if the server dies meanwhile."""
    failures: list[BaseException] = []

    def prepare() -> None:
        try:
            import torch
            import tqdm

            tqdm.tqdm.monitor_interval = 0  # no thread that watches progress bars
            torch.set_num_threads(1)
            from lora_playground.jobs import execution, pipeline  # noqa: F401

            execution.prepare()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=prepare, name="prepare")
    thread.start()
    closed = select.poll()
    closed.register(server, 0)
    while thread.is_alive():
        if closed.poll(0):
            os._exit(0)
        thread.join(0.2)
    for error in failures:
        traceback.print_exception(error)
    return not failures


def _serve(server: socket.socket) -> None:
    gc.collect()
    gc.freeze()  # the children share these pages as long as nobody writes to them
    poller = select.poll()
    poller.register(server, select.POLLIN)
    children: dict[int, int] = {}  # {descriptor that becomes readable when the child ends: its process id}
    while True:
        for ready, _ in poller.poll():
            if ready in children:
                pid = children.pop(ready)
                poller.unregister(ready)
                os.close(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _tell(server, {"ended": pid, "status": status})
                continue
            data, handles, _, _ = socket.recv_fds(server, 4096, 1)
            if not data:
                return
            pid = os.fork()
            if pid == 0:
                _become_worker(json.loads(data)["token"], handles[0], server, list(children))
            os.close(handles[0])
            child = os.pidfd_open(pid)
            children[child] = pid
            poller.register(child, select.POLLIN)


def _tell(server: socket.socket, message: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the server is gone, as the next read from the socket shows
        server.send(json.dumps(message).encode())


def _become_worker(token: str, control: int, server: socket.socket, inherited: list[int]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        _carry(token)
        _tell(server, {"forked": os.getpid()})  # only once it can be found and ended by its process id and token
        server.close()
        for handle in inherited:
            os.close(handle)
        share_the_session()
        import torch

        from lora_playground.jobs import worker
        from lora_playground.models.precision import probe
        from lora_playground.training.threads import Threads, levels

        Threads(levels(probe("cpu").threads), torch.set_num_threads)  # as many as there are free cores
        status = worker.main(["--control", str(control)], prepared=True)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _carry(token: str) -> None:
    """Gives this process and its descendants a worker's token in their environment, by which processes that a job
    leaves behind are found.

    /proc shows the memory that held the environment when the process was started, so the token, which always has the
    same length, is overwritten there in place.
    """
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    address = libc.getenv(TOKEN_VARIABLE.encode())
    if address and len(token) == len(os.environ[TOKEN_VARIABLE]):
        ctypes.memmove(address, token.encode(), len(token))
    os.environ[TOKEN_VARIABLE] = token


if __name__ == "__main__":
    sys.exit(main())
