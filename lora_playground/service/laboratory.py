"""Operations on several runs: sweeps and mixtures. Part of `operations`."""

from __future__ import annotations

from typing import Any, Literal

from lora_playground.analysis.merging import Recipe
from lora_playground.errors import ConfigError, RunError
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.lab import mixing
from lora_playground.runs import RunStore
from lora_playground.service import catalogue, run_options
from lora_playground.service.operation_options import MixingOptions, section_of
from lora_playground.service.spectra import updates_of
from lora_playground.service.sweeps import line, report
from lora_playground.service.values import listed, weighed, whole, words
from lora_playground.sweeps import Grid, SweepScheduler

Wish = Literal["run", "pause", "stop"]


class Laboratory:
    """Operations on several runs.

    Attributes:
        supervisor, store: the queue and its runs. sweeps: queues the runs of sweeps; None if this server has no sweeps.
    """

    supervisor: Supervisor
    store: RunStore
    sweeps: SweepScheduler | None

    def sweep(
        self, who: str, ranks: list[int] | None = None, variants: list[str] | None = None,
        learning_rates: list[float] | None = None, seeds: list[int] | None = None, race: bool = False, **options: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Starts a sweep, a run for every combination of the lists, and returns its id at once; ask `sweep_status`.

        Args:
            ranks: ranks to compare; left out, the one of the other options.
            variants: variants to compare, by name.
            learning_rates: peak learning rates to compare.
            seeds: seeds to compare.
            race: at a quarter and at half of the steps the worse half stops.
        """
        if not isinstance(race, bool):
            raise ConfigError("race", race, "give true or false")
        scheduler, base = self._scheduler(), run_options.build(options)
        grid = Grid(
            tuple(listed("ranks", ranks, int)), tuple(listed("variants", variants, str)),
            tuple(listed("learning_rates", learning_rates, int, float)), tuple(listed("seeds", seeds, int)),
        )  # fmt: skip
        return report(scheduler.status(scheduler.create(grid.points(base), grid.label(base), race, who).id))

    def list_sweeps(self, who: str, limit: int = 50) -> list[dict[str, Any]]:
        """Lists sweeps, newest first: state, how many runs there are and how many have ended, the best score.

        Args:
            limit: the most sweeps to list, 1 to 1000.
        """
        scheduler = self._scheduler()
        return [line(scheduler.read(one)) for one in scheduler.store.list()[: whole("limit", limit, 1, 1000)]]

    def sweep_status(self, who: str, sweep: str) -> dict[str, Any]:
        """Tells how far a sweep is, run by run, and what it shows in words: the best run, how much rank is enough.

        Args:
            sweep: a sweep's id.
        """
        return report(self._scheduler().status(sweep))

    def change_sweep(self, who: str, sweep: str, wish: Wish) -> dict[str, Any]:
        """Pauses a sweep, lets it go on, or stops it for good; what is finished stays.

        Args:
            sweep: a sweep's id.
            wish: run, pause or stop.
        """
        if wish not in ("run", "pause", "stop"):
            raise ConfigError("wish", wish, "choose one of run, pause, stop")
        scheduler = self._scheduler()
        return report(scheduler.read(scheduler.ask(sweep, wish, who if scheduler.store.get(sweep).owner else None)))

    def delete_sweep(self, who: str, sweep: str) -> dict[str, Any]:
        """Deletes a sweep that has ended or is paused, with all its runs and their files, for good.

        Args:
            sweep: a sweep's id.
        """
        scheduler = self._scheduler()
        runs = scheduler.delete(sweep, who if scheduler.store.get(sweep).owner else None)
        return {"sweep": sweep, "deleted": True, "runs": runs}

    def merge(
        self, who: str, runs: list[str], weights: list[float] | None = None, title: str = "", **options: Any
    ) -> dict[str, Any]:
        """Mixes 2 to 4 finished runs of one base into a new run, saved as a plain LoRA, and returns its norms.

        Args:
            runs: ids of the runs.
            weights: one for each, from -2 to 2; left out, 1 each.
            title: the new run's name; '' makes one from the names of the mixed runs.
        """
        given = section_of(MixingOptions, options)
        names, shares = weighed(runs, weights)
        recipe = Recipe(given.method, given.density, given.rank, given.seed)
        chosen = mixing.mixed(self.store, names, shares, recipe)
        self.supervisor.check_kept(who)
        saved = mixing.save(self.store, chosen, words("title", title, 80))
        self.supervisor.adopt(saved.id, who)
        made = mixing.numbers(chosen, updates_of(saved), chosen.adapters())
        return {"run": saved.id, "label": saved.label, "mixture": made} | catalogue.run_row(saved, saved.state())

    def _scheduler(self) -> SweepScheduler:
        if self.sweeps is None:
            raise RunError("There are no sweeps here; ask a server.")
        return self.sweeps
