"""Codes and words of failures, from exceptions and from exit statuses."""

import errno
import signal

import pytest

from lora_playground.errors import AssetError, ConfigError, DataError, ModelError, PlaygroundError, TrainingError
from lora_playground.jobs.failures import CODES, Stopped, explain, explain_exit
from lora_playground.runs.files import DiskFull


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "oom"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "oom"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "oom",
        ),
        (caused(ModelError("It does not fit into the memory of cuda"), OutOfMemoryError("CUDA out of memory")), "oom"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (DiskFull("The disk is full (3 MB free)"), "disk"),
        (RuntimeError("Error while serializing: No space left on device (os error 28)"), "disk"),
        (TrainingError("The loss is NaN at step 3."), "nan"),
        (TrainingError("The gradient is not finite at step 3."), "nan"),
        (TrainingError("There is no information to learn from."), "error"),
        (DataError("row 3"), "data"),
        (ConfigError("data.dataset", "x", "choose one"), "data"),
        (ConfigError("model.source", "x", "choose one"), "model"),
        (ConfigError("variant.rank", 0, "at least 1"), "error"),
        (ModelError("no such model"), "model"),
        (AssetError("missing"), "model"),
        (Stopped("stopped"), "cancelled"),
        (SystemExit(130), "cancelled"),
        (PlaygroundError("plain words"), "error"),
        (ValueError("odd"), "error"),
    ],
)
def test_codes(error: BaseException, code: str) -> None:
    found, message = explain(error)
    assert found == code and code in CODES and message


def test_unexpected_errors_name_their_type() -> None:
    assert "ValueError: odd" in explain(ValueError("odd\nmore"))[1]


@pytest.mark.parametrize(
    ("status", "oom_killed", "code", "words"),
    [
        (0, False, "error", "without a result"),
        (3, False, "error", "status 3"),
        (-signal.SIGKILL, False, "killed", "SIGKILL"),
        (-signal.SIGKILL, True, "oom", "memory was full"),
        (-signal.SIGSEGV, False, "killed", "SIGSEGV"),
        (-signal.SIGTERM, False, "killed", "SIGTERM"),
        (-200, False, "killed", "signal 200"),
    ],
)
def test_exit_statuses(status: int, oom_killed: bool, code: str, words: str) -> None:
    found, message = explain_exit(status, oom_killed)
    assert found == code and words in message
