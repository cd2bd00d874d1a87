"""Says why a run failed, as a code and a message: from an exception in the worker, or from its exit status.

It knows errors and signals; nothing of the queue. No torch: torch's exceptions are recognised by name and text.
"""

from __future__ import annotations

import contextlib
import errno
import re
import signal
import traceback
from typing import Any

from lora_playground.errors import AssetError, ConfigError, DataError, ModelError, PlaygroundError, TrainingError
from lora_playground.runs import Run
from lora_playground.runs.files import is_disk_full

CODES = ("oom", "nan", "disk", "data", "model", "killed", "stalled", "cancelled", "held", "error")

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc", "cublas_status_alloc")


class Stopped(PlaygroundError):
    """The run stopped because somebody asked it to."""


class Held(PlaygroundError):
    """The run stopped at the step at which it is held (`Run.hold`)."""


def record(run: Run, error: BaseException) -> dict[str, Any]:
    """Writes an exception's traceback to the run's log, and its `error.json`; returns the contents of the latter."""
    log_traceback(run, error)
    code, message = explain(error)
    return run.fail(code, message)


def log_traceback(run: Run, error: BaseException) -> None:
    """Writes the traceback of an unexpected error to the run's log."""
    if not isinstance(error, PlaygroundError):
        text = "".join(traceback.format_exception(error))
        with contextlib.suppress(OSError), open(run.log_path, "a", encoding="utf-8") as file:
            file.write(text)


def explain(error: BaseException) -> tuple[str, str]:
    """(code, message for the person) of an exception."""
    if isinstance(error, Stopped | KeyboardInterrupt | SystemExit):
        return "cancelled", str(error) if isinstance(error, Stopped) else "The run was stopped."
    if isinstance(error, Held):
        return "held", str(error)
    if is_out_of_memory(error):
        return "oom", _memory_message(error)
    if is_disk_full(error):
        detail = str(error) if isinstance(error, PlaygroundError) else "The disk is full."
        return "disk", f"{detail} The last checkpoint is kept; make room and resume the run."
    if isinstance(error, TrainingError):
        return ("nan" if _not_finite(error) else "error"), str(error)
    if isinstance(error, DataError):
        return "data", str(error)
    if isinstance(error, ModelError | AssetError):
        return "model", str(error)
    if isinstance(error, ConfigError):
        section = error.field.split(".")[0]
        return {"data": "data", "model": "model"}.get(section, "error"), str(error)
    if isinstance(error, PlaygroundError):
        return "error", str(error)
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return (
        "error",
        f"The run ended with an error that it did not expect ({type(error).__name__}: {first}). See the log.",
    )


MACHINE_LOST = 75
"""Exit status of a job whose machine cannot be reached (EX_TEMPFAIL of sysexits.h)."""


def explain_exit(status: int, oom_killed: bool = False) -> tuple[str, str]:
    """(code, message for the person) of a worker that ended without writing an error; a negative `status` is the signal
    that ended it."""
    if status == MACHINE_LOST:
        return "killed", "The machine that it ran on is gone. Resume goes on from the last checkpoint, on another."
    if status == 0:
        return "error", "The worker ended without a result. See the log."
    if status > 0:
        return "error", f"The worker ended with exit status {status} and no message. See the log."
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if -status == signal.SIGKILL:
        if oom_killed:
            return "oom", f"The system ended the worker because the machine's memory was full. {_SMALLER}"
        return "killed", (
            "The worker was killed (SIGKILL). Often the system does this when memory is full; "
            "if so, choose a smaller model, batch or length. Resume goes on from the last checkpoint."
        )
    if -status in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT):
        return "killed", f"The worker crashed in native code ({name}). The log says where; other runs are not affected."
    return "killed", f"The worker was ended by {name}. Resume goes on from the last checkpoint."


_SMALLER = "Halve batch_tokens and double accumulation, shorten max_length, or choose a smaller model or 4bit."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or its cause, says that memory on the device or the host is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, PlaygroundError) and "memory is full" in str(seen):
            return True
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        if isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return True
        if isinstance(seen, RuntimeError) and any(words in str(seen).lower() for words in _MEMORY_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _memory_message(error: BaseException) -> str:
    if isinstance(error, PlaygroundError):
        return str(error)
    first = (str(error).strip().splitlines() or ["no details"])[0][:300]
    return f"The memory is full ({first}). {_SMALLER}"


def _not_finite(error: TrainingError) -> bool:
    return re.search(r"\b(nan|inf|infinite|finite|no longer a number)\b", str(error), re.IGNORECASE) is not None
