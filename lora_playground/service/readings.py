"""Operations of the laboratory that load a model: directions, dials, first gradients, scores of mixtures. Part of
`operations`. Each runs the command of the same name in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_playground.analysis.merging import Recipe
from lora_playground.lab import mixing
from lora_playground.runs import RunStore
from lora_playground.service.long_work import LONGEST_WAIT, LongWork
from lora_playground.service.operation_options import (
    DialOptions,
    DirectionOptions,
    WeightsOptions,
    flags_of,
    section_of,
)
from lora_playground.service.values import number, weighed, words


class Readings:
    """Operations of the laboratory that load a model.

    Attributes:
        store: the runs. work: runs the commands.
    """

    store: RunStore
    work: LongWork

    async def direction(self, who: str, run: str, module: str, wait: float = 25.0, **options: Any) -> dict[str, Any]:
        """Reads one singular direction of a run: what it answers to, which tokens it raises, the answers with it alone
        and without it; where that takes longer than `wait`, ask again.

        Args:
            run: a finished run's id.
            module: its name as in spectra.
            wait: seconds to wait for the result, 0 to 50; `state` is then running or done.
        """
        given = section_of(DirectionOptions, options)
        self.store.get(run).require_update()
        command = ["direction", run, f"--module={words('module', module, 400)}", *flags_of(given)]
        return await self._read(command, who, wait)

    async def dial(self, who: str, run: str, wait: float = 25.0, **options: Any) -> dict[str, Any]:
        """Scores a run while one dial turns, the strength of its update or of its intruders, with what it forgets;
        where that takes longer than `wait`, ask again.

        Args:
            run: a finished run's id.
            wait: seconds to wait for the result, 0 to 50; `state` is then running or done.
        """
        given = section_of(DialOptions, options)
        self.store.get(run).require_update()
        return await self._read(["dial", run, *flags_of(given)], who, wait)

    async def forecast(self, who: str, run: str, wait: float = 25.0) -> dict[str, Any]:
        """Lays the gradient before the first step beside what a run learned: how many directions it foretold; where
        that takes longer than `wait`, ask again.

        Args:
            run: a finished run's id.
            wait: seconds to wait for the result, 0 to 50; `state` is then running or done.
        """
        self.store.get(run).require_update()
        return await self._read(["forecast", run], who, wait)

    async def merge_scores(
        self, who: str, runs: list[str], weights: list[float] | None = None, wait: float = 25.0, **options: Any
    ) -> dict[str, Any]:
        """Scores the tasks of 2 to 4 runs over the weights of their mixture, beside controls, and saves nothing; where
        that takes longer than `wait`, ask again.

        Args:
            runs: ids of the runs.
            weights: one for each, from -2 to 2; left out, 1 each.
            wait: seconds to wait for the result, 0 to 50; `state` is then running or done.
        """
        given = section_of(WeightsOptions, options)
        names, shares = weighed(runs, weights)
        recipe = Recipe(given.method, given.density, given.rank, given.seed)
        mixing.mixed(self.store, names, shares, recipe)
        parts = [f"{name}={share}" for name, share in zip(names, shares)]
        return await self._read(["merge", *parts, "--scores", *flags_of(given)], who, wait)

    async def _read(self, command: Sequence[str], who: str, wait: float) -> dict[str, Any]:
        return await self.work.result(command, who, number("wait", wait, 0, LONGEST_WAIT))
