"""How compiled threads work together without sleeping in between.

To wake a thread takes a tenth of a millisecond to several, a third of a token or all of it. A thread that expects work
soon looks for it again and again instead, and lets others run on its processor between looks. Each thread has a line of
`states`, int64 (threads, 8), which is a cache line: its state, its index in the work and the number of parts. The
leader's, the first, has a count of arrivals instead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba import extending, njit, types
from numba.core import cgutils

intrinsic: Any = extending.intrinsic
Array = np.ndarray[Any, Any]

READY, CHOSEN, GO, LEFT, CALLED = range(5)
"""A thread looks for work; it is about to get some; it works; it does not look; it was woken and has not come yet."""
STATE, INDEX, PARTS = range(3)
ARRIVED = 0
LOOKS = 64
"""Looks between which a thread does not give way."""

gives_way = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())
"""Lets another thread run on this processor, if one wants to."""


def _place(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Address of states[line, column]."""
    states = context.make_array(signature.args[0])(context, builder, args[0])
    index = [context.cast(builder, args[i], signature.args[i], types.intp) for i in (1, 2)]
    return cgutils.get_item_pointer(context, builder, signature.args[0], states, index)


@intrinsic
def load(typing: Any, states: Any, line: Any, column: Any) -> Any:
    """A number of the states, and with it all that was written before it was set."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_place(context, builder, signature, args), "acquire", 8)

    return types.int64(states, line, column), code


@intrinsic
def store(typing: Any, states: Any, line: Any, column: Any, number: Any) -> Any:
    """Sets a number of the states, after all that this thread has written."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = context.cast(builder, args[3], signature.args[3], types.int64)
        builder.store_atomic(value, _place(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.void(states, line, column, number), code


@intrinsic
def swap(typing: Any, states: Any, line: Any, column: Any, old: Any, new: Any) -> Any:
    """Sets a number of the states if it is `old`; whether it was."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        before, after = (context.cast(builder, args[i], signature.args[i], types.int64) for i in (3, 4))
        pair = builder.cmpxchg(_place(context, builder, signature, args), before, after, "seq_cst")
        return builder.extract_value(pair, 1)

    return types.boolean(states, line, column, old, new), code


@intrinsic
def add(typing: Any, states: Any, line: Any, column: Any, number: Any) -> Any:
    """Adds to a number of the states; what it was."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = context.cast(builder, args[3], signature.args[3], types.int64)
        return builder.atomic_rmw("add", _place(context, builder, signature, args), value, "seq_cst")

    return types.int64(states, line, column, number), code


@njit
def met(states: Array, parts: int, meeting: int) -> int:
    """Waits until all parts have come to this meeting; the number of the next."""
    if parts == 1:
        return 0
    add(states, 0, ARRIVED, 1)
    looks, all_here = 0, (meeting + 1) * parts
    while load(states, 0, ARRIVED) < all_here:
        looks += 1
        if looks % LOOKS == 0:
            gives_way()
    return meeting + 1


@njit
def called(states: Array, hold: int) -> int:
    """Begins all threads that are ready, or were woken and come within so many looks; the number of parts with one's
    own."""
    parts = 1
    for other in range(1, len(states)):
        looks = 0
        while load(states, other, STATE) == CALLED and looks < hold:
            looks += 1
        if swap(states, other, STATE, READY, CHOSEN):
            store(states, other, INDEX, parts)
            parts += 1
    store(states, 0, ARRIVED, 0)
    for other in range(1, len(states)):
        if load(states, other, STATE) == CHOSEN:
            store(states, other, PARTS, parts)
            store(states, other, STATE, GO)
    return parts


@njit
def ended(states: Array) -> None:
    """Waits until no thread works."""
    for other in range(1, len(states)):
        looks = 0
        while load(states, other, STATE) == GO:
            looks += 1
            if looks % LOOKS == 0:
                gives_way()


@njit
def waited(states: Array, who: int, patience: int) -> bool:
    """Waits for work; whether there is some, and not that nobody called for so many looks or that one shall leave."""
    swap(states, who, STATE, CALLED, READY)
    looks = 0
    while True:
        state = load(states, who, STATE)
        if state == GO:
            return True
        looks += 1
        if state == LEFT or (looks > patience and swap(states, who, STATE, READY, LEFT)):
            return False
        if looks % LOOKS == 0:
            gives_way()


@njit
def done(states: Array, who: int) -> None:
    """Says that this thread's part is done and that it looks for more."""
    store(states, who, STATE, READY)


class Helper:
    """A thread that follows one leader at a time."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._states, self._line = np.full((1, 8), LEFT), 0
        threading.Thread(target=self._run, name="rows", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._work.get()()

    @property
    def awake(self) -> bool:
        """Whether it looks for work somewhere."""
        return bool(self._states[self._line, STATE] == READY)

    def call(self, states: Array, line: int, work: Callable[[], None], errors: list[BaseException]) -> None:
        """Has it leave the leader that it follows and do `work`, which follows the one of these states; what that
        raises is added to `errors`."""
        self._states[self._line, STATE] = LEFT
        self._states, self._line = states, line
        states[line, STATE] = CALLED

        def attempt() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)
                states[line, STATE] = LEFT

        self._work.put(attempt)
