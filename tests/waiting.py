"""How tests wait for something that another thread or process does."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 120.0
"""Seconds to wait for what must come. A busy machine is no failure, so this is long."""

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str = "it") -> T:
    """Waits until `condition` gives something true, and returns it."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not happen in {PATIENCE:g} s"
        time.sleep(0.02)
    return value
