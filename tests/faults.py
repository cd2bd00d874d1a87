"""An operating system whose N-th call fails, for tests of writing."""

import errno
import os

import pytest

from lora_playground.runs import files, folder


class FaultyOs:
    """The os module, whose N-th write, fsync or rename fails as on a full disk.

    Args:
        fail_at: N, from 1. short: a write that fails writes half of its data and raises nothing.

    Attributes:
        fired: whether that call has come.
    """

    CALLS = ("write", "fsync", "replace")

    def __init__(self, fail_at: int, short: bool = False) -> None:
        self.left, self.short, self.fired = fail_at, short, False

    def __getattr__(self, name: str):
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                self.fired = True
                if name == "write" and self.short:
                    return real(args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replaces `os` by it in the modules that write a run's folder."""
        for module in (files, folder):
            monkeypatch.setattr(module, "os", self)
