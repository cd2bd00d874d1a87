"""Everything that programs can ask of a running server, one method for each operation.

`who` identifies the caller and owns the runs that it starts: as for people, only the owner may stop, resume, score or
delete a run, and the same limits hold. Names, types and descriptions in API, MCP and docs/api.md are taken from these
methods and their docstrings, those of a run's options from its schema. This module knows no Gradio and no HTTP; all
errors are classes of `errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

from lora_playground.analysis.truncation import Mode
from lora_playground.chat.client import ChatClient
from lora_playground.data.from_hub import read_hub
from lora_playground.data.readers import read_bytes, read_file
from lora_playground.data.uploads import note_owner, store_once, uploads_of
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.machine.device import device
from lora_playground.models.catalogue import resolve
from lora_playground.runs import Run
from lora_playground.runs.history import read_events
from lora_playground.service import catalogue, conversation, run_options, spectra
from lora_playground.service.exchanging import Exchanging
from lora_playground.service.laboratory import Laboratory
from lora_playground.service.learning import Learning
from lora_playground.service.long_work import LONGEST_WAIT, LongWork
from lora_playground.service.operation_options import ChatOptions, EvaluateOptions, flags_of, section_of
from lora_playground.service.readings import Readings
from lora_playground.service.values import number, whole, words
from lora_playground.sweeps import SweepScheduler

MAX_TEXT = 20_000_000
"""Most characters of rows that are given as text."""
EVENT_BYTES = 1_000_000
"""About how many bytes of a run's events one answer of `status` has; the next answer continues after them."""


class Operations(Exchanging, Laboratory, Readings, Learning):
    """All operations.

    Args:
        supervisor: the queue and its runs. chat: client of the chat process. sweeps: queues the runs of sweeps; None if
            this server has no sweeps.
    """

    def __init__(self, supervisor: Supervisor, chat: ChatClient, sweeps: SweepScheduler | None = None) -> None:
        self.sweeps = sweeps
        self.supervisor, self.store, self.home = supervisor, supervisor.runs, supervisor.home
        self._chat, self.work, self._asking = chat, LongWork(supervisor.home), Counter[str]()
        # Gradio only serves files from the system's temporary folder. This folder is deleted when the process ends.
        self.place = tempfile.TemporaryDirectory(prefix="lora-playground-", ignore_cleanup_errors=True)

    # --- lists --------------------------------------------------------------------------------------------------------

    def list_models(self, who: str) -> list[dict[str, Any]]:
        """Lists the base models of the catalogue; 'embedded' ships with the app. Any hub id works as well."""
        return catalogue.models()

    def get_model(self, who: str, source: str) -> dict[str, Any]:
        """Tells of one base model: licence, sizes, and the modules that an adapter may change.

        Args:
            source: 'embedded', another model of list_models, or a hub id such as Qwen/Qwen3-0.6B.
        """
        return catalogue.model(source)

    def list_datasets(self, who: str) -> list[dict[str, Any]]:
        """Lists the datasets that ship with the app, then uploads: numbers of rows, and how answers are scored."""
        return catalogue.datasets(self.home)

    def get_dataset(self, who: str, name: str, rows: int = 3) -> dict[str, Any]:
        """Tells of one dataset, with its first rows of each part.

        Args:
            name: as list_datasets has it.
            rows: how many rows of each part, 0 to 100.
        """
        return catalogue.dataset(self.home, name, rows)

    def list_variants(self, who: str) -> list[dict[str, Any]]:
        """Lists the variants: ways to write the update (lora, dora, ...), each with its options."""
        return catalogue.variants()

    def get_variant(self, who: str, name: str) -> dict[str, Any]:
        """Tells of one variant: options with bounds and defaults, equation, paper.

        Args:
            name: as list_variants has it.
        """
        return catalogue.variant(name)

    def list_runs(self, who: str, limit: int = 50) -> list[dict[str, Any]]:
        """Lists runs, newest first: state, dataset, variant, rank, score of base and adapted model.

        Args:
            limit: the most runs to list, 1 to 1000.
        """
        most = whole("limit", limit, 1, 1000)
        rows: list[dict[str, Any]] = []
        for run in self.store.list():
            with contextlib.suppress(PlaygroundError):  # leaves a damaged folder out
                rows.append(catalogue.run_row(run, self.supervisor.job(run.id).state))
            if len(rows) == most:
                break
        return rows

    def get_run(self, who: str, run: str) -> dict[str, Any]:
        """Tells all of one run: configuration, state, result with scores and samples, error.

        Args:
            run: a run's id.
        """
        return catalogue.run_record(self.store.get(run), self.supervisor.job(run).state)

    # --- data in ------------------------------------------------------------------------------------------------------

    def upload_dataset(
        self, who: str, file: Path | None = None, text: str = "", name: str = "rows.jsonl", hub: str = "",
        split: str = "train", columns: dict[str, str] | None = None, metric: str | None = None, seed: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """Makes a dataset of a file, of rows given as text, or of a hub dataset; its id goes into train as `dataset`.

        Args:
            file: JSONL, JSON, CSV, TSV, Parquet or text, up to 20 MB.
            text: the rows themselves, such as one {"prompt": "...", "completion": "..."} a line.
            name: a file name for the text; its ending gives the format.
            hub: a dataset of the Hugging Face hub, such as openai/gsm8k, instead of a file or text.
            split: its part: train, or with its subset main/train.
            columns: which column has which role, such as {"prompt": "Question", "completion": "Answer"}; {} finds them.
            metric: how answers are scored: label, exact, contains and others, or none; left out, it is found.
            seed: of the split into train, validation and test.
        """
        given = [part for part, there in (("file", file), ("text", text), ("hub", hub)) if there]
        if len(given) != 1:
            raise ConfigError("file", given or None, "give exactly one of file, text and hub")
        for key, value in (("text", text), ("name", name), ("hub", hub), ("split", split)):
            words(key, value, MAX_TEXT if key == "text" else 400)
        self.supervisor.limits.check_uploads(uploads_of(self.home, who))
        roles, drawn = catalogue.columns_of(columns), whole("seed", seed, 0, 2**31 - 1)
        if metric is not None:
            words("metric", metric, 40)
        if file is not None:
            reading, label = read_file(file, file.name, roles), file.name
        elif text:
            reading, label = read_bytes(text.encode(), name, roles), name
        else:
            reading, label = read_hub(hub, split, roles, anonymous=True), f"{hub} {split}"
        card = store_once(reading, self.home, label, drawn, metric)
        note_owner(self.home, card.name, who)
        notes = [*reading.notes, *(problem.text for problem in reading.problems[:20])]
        return catalogue.upload_record(card, reading) | {"notes": notes}

    # --- runs ---------------------------------------------------------------------------------------------------------

    def estimate(self, who: str, **options: Any) -> dict[str, Any]:
        """Tells what a run with these options would cost: memory by cause in bytes, seconds, trained parameters."""
        gpu = device().kind == "cuda"
        config = run_options.build(options)
        return catalogue.estimated(self.store, config, device().kind, "bfloat16" if gpu else "float32")

    def train(self, who: str, fresh: bool = False, **options: Any) -> dict[str, Any]:
        """Starts a fine-tuning run and returns its id at once; ask `status` how far it is. All options have defaults.

        Args:
            fresh: train it even where the very same run was made before, whose result is taken over otherwise.
        """
        if not isinstance(fresh, bool):
            raise ConfigError("fresh", fresh, "give true or false")
        return self._told(self.supervisor.submit(run_options.build(options), who, fresh=fresh))

    async def status(
        self, who: str, run: str, since: int = 0, wait: float = 0.0, until: Literal["news", "end"] = "news",
        types: list[str] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Tells a run's state, its place in the queue, and the events since a version (losses, spectra, messages, ...).

        Args:
            run: a run's id.
            since: the `version` of the last answer, for what is new since then; 0 for all.
            wait: the most seconds, 0 to 50, to wait for news or the end before answering.
            until: what to wait for: news, or the end of the run.
            types: only events of these types, such as ["loss", "message"]; left out, all.
        """
        found, end = self.store.get(run), time.monotonic() + number("wait", wait, 0, LONGEST_WAIT)
        if until not in ("news", "end"):
            raise ConfigError("until", until, "choose one of news, end")
        if types is not None and not (isinstance(types, list) and all(isinstance(one, str) for one in types)):
            raise ConfigError("types", types, "give a list of names of events")
        offset = whole("since", since, 0, 2**53)
        before = self.supervisor.job(run).state
        while True:
            job = self.supervisor.job(run)
            events, version = read_events(found.events_path, offset, EVENT_BYTES)
            moved = job.state != before or (bool(events) and until == "news")
            if job.ended or (moved and until == "news") or time.monotonic() >= end:
                break
            await asyncio.sleep(0.2)
        kept = [event for event in events if types is None or event["type"] in types]
        return self._told(job) | {"version": version, "events": kept}

    def stop(self, who: str, run: str) -> dict[str, Any]:
        """Stops a run after its current step, or takes it out of the queue; it can be resumed.

        Args:
            run: a run's id.
        """
        return self._told(self.supervisor.cancel(run, self._owner(who, run)))

    def resume(self, who: str, run: str) -> dict[str, Any]:
        """Goes on with a stopped, failed or interrupted run from its last checkpoint.

        Args:
            run: a run's id.
        """
        return self._told(self.supervisor.resume(run, self._owner(who, run)))

    def delete(self, who: str, run: str) -> dict[str, Any]:
        """Deletes an ended run and all its files, for good.

        Args:
            run: a run's id.
        """
        self.supervisor.delete(run, self._owner(who, run))
        return {"run": run, "deleted": True}

    async def evaluate(self, who: str, run: str, wait: float = 25.0, **options: Any) -> dict[str, Any]:
        """Scores base and adapted model on the dataset's test part; where it takes longer than `wait`, ask again.

        Args:
            run: a finished run's id.
            wait: seconds to wait for the result, 0 to 50; `state` is then running or done.
        """
        given = section_of(EvaluateOptions, options)
        self._mine(who, run).require_update()
        command = ["evaluate", run, *flags_of(given)]
        return {"run": run, **await self.work.result(command, who, number("wait", wait, 0, LONGEST_WAIT))}

    # --- what it learned ----------------------------------------------------------------------------------------------

    def spectra(self, who: str, run: str) -> dict[str, Any]:
        """Gives the singular values of a run's update, module by module, with effective and stable rank.

        Args:
            run: a finished run's id.
        """
        return spectra.numbers(self.store.get(run))

    def spectrum_picture(self, who: str, run: str, module: str = "") -> Path:
        """Draws the singular values of one module's update as a PNG.

        Args:
            run: a finished run's id.
            module: its name as in spectra; '' takes the one with the largest singular value.
        """
        picture = spectra.picture(self.store.get(run), module)
        path = Path(tempfile.mkdtemp(dir=self.place.name)) / "spectrum.png"
        path.write_bytes(picture)
        return path

    async def chat(
        self, who: str, prompt: str, runs: list[str] | None = None, history: list[dict[str, str]] | None = None,
        model: str | None = None, **options: Any,
    ) -> AsyncIterator[dict[str, Any]]:  # fmt: skip
        """Asks the base model and up to three adapted ones the same, with the same noise; streams their answers.

        Args:
            prompt: the question.
            runs: ids of runs whose adapters answer beside the base; left out, the base alone.
            history: earlier turns, {"role": "user" or "assistant", "content": "..."} each.
            model: the base model where no run is given; left out, embedded.
        """
        given = section_of(ChatOptions, options)
        names = [] if runs is None else runs
        if not isinstance(names, list):
            raise ConfigError("runs", runs, "give a list of ids of runs")
        for identity in names:
            self.store.get(identity).require_update()
        if model is not None:
            resolve(words("model", model, 400), local=True)
        request = conversation.request(prompt, names, history, model=model, who=who, **given.model_dump())
        self.supervisor.limits.check_chats(self._asking[who])
        self._asking[who] += 1
        try:
            async with contextlib.aclosing(conversation.answers(self._chat, request)) as stream:
                async for answer in stream:
                    yield answer
        finally:
            self._asking[who] -= 1

    def cut(
        self, who: str, run: str, mode: Mode = "top", k: int = 1, first: int = 1, last: int = 1, strength: float = 1.0,
        title: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Makes a new run of only some singular directions of every module's update, saved as a plain LoRA.

        Args:
            run: a finished run's id.
            mode: which directions are kept: top (the k strongest), bottom (the k weakest), range, one, or all.
            k: how many, for top and bottom.
            first: the first direction of a range, or the one; they count from 1, the strongest.
            last: the last direction of a range.
            strength: what is kept is multiplied by this, -2 to 2.
            title: the new run's name; '' makes one from the run and the kept directions.
        """
        title = words("title", title, 80)
        self.supervisor.check_kept(who)
        made = spectra.cut(self.store, self.store.get(run), mode, k, first, last, strength, title)
        self.supervisor.adopt(made.id, who)
        return self._told(self.supervisor.job(made.id))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _owner(self, who: str, run: str) -> str | None:
        # Programs have the server's token or run on its machine, so they may also change runs that have no owner.
        return who if self.supervisor.job(self.store.get(run).id).owner else None

    def _mine(self, who: str, run: str) -> Run:
        """The run, if `who` may change it. Raises JobError or RunError if not, or if there is none."""
        self.supervisor.job(run, self._owner(who, run))
        return self.store.get(run)

    def _told(self, job: Any) -> dict[str, Any]:
        """A job as plain data."""
        progress = self.store.progress(self.store.get(job.id))
        step, steps = job.step or progress.step, job.steps or progress.planned
        error = {"code": job.error_code, "message": job.error_message} if job.error_code else None
        return {
            "run": job.id, "label": job.label, "state": job.state, "ended": job.ended, "position": job.position,
            "eta": job.eta, "step": step, "steps": steps, "resumable": job.resumable, "error": error,
        }  # fmt: skip
