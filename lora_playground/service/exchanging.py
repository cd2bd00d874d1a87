"""Operations that export and import: adapters as files, runs in a form that can be trained again. Part of
`operations`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from lora_playground.errors import ConfigError
from lora_playground.exchange.importing import import_files, import_from_hub
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.runs import RunStore
from lora_playground.service import exporting
from lora_playground.service.operation_options import ExportOptions, section_of
from lora_playground.service.values import words

Format = Literal["peft", "lora", "merged"]
Again = Literal["config", "cli", "script", "notebook"]


class Exchanging:
    """Operations that export and import.

    Attributes:
        supervisor, store: the queue and its runs. place: a temporary folder for files to be downloaded.
    """

    supervisor: Supervisor
    store: RunStore
    place: TemporaryDirectory[str]

    async def export(self, who: str, run: str, format: Format = "peft", **options: Any) -> Path:
        """Gives a finished run as a zip: its adapter in PEFT's format, a plain LoRA, or the merged model.

        Args:
            run: a finished run's id.
            format: peft (as it was saved), lora (stock PEFT loads it), or merged (the whole model).
        """
        given = section_of(ExportOptions, options)
        return await exporting.exported(self.store, run, format, Path(self.place.name), given.rank)

    async def reproduce(self, who: str, run: str, format: Again = "cli") -> dict[str, Any]:
        """Gives a run as text to do it again: its RunConfig, a command line, a script or a notebook.

        Args:
            run: a finished run's id.
            format: config, cli, script or notebook; reproduce_bundle gives all of them, with the batches, as a file.
        """
        return await exporting.reproduced(self.store, run, format, Path(self.place.name))

    async def reproduce_bundle(self, who: str, run: str) -> Path:
        """Gives a run as a zip to do it again: RunConfig, command line, script, notebook and the batches they need.

        Args:
            run: a finished run's id.
        """
        return await exporting.reproduced_bundle(self.store, run, Path(self.place.name))

    def import_adapter(
        self, who: str, file: Path | None = None, hub: str = "", base: str | None = None, title: str = ""
    ) -> dict[str, Any]:
        """Makes a run of a PEFT adapter from elsewhere, to look at its spectra and to ask it.

        Args:
            file: a zip of its folder (adapter_config.json and adapter_model.safetensors), up to 20 MB.
            hub: an adapter of the Hugging Face hub such as somebody/some-adapter, where there is no file.
            base: its base model as get_model takes it; left out, it is found by the adapter's shapes.
            title: the run's name; '' takes the file's.
        """
        if (file is None) == (not hub):
            raise ConfigError("file", None, "give exactly one of file and hub")
        title, hub = words("title", title, 80), words("hub", hub, 200)
        if base is not None:
            words("base", base, 400)
        self.supervisor.check_kept(who)
        if file is not None:
            done = import_files(self.store, [file], title or file.stem, base)
        else:
            done = import_from_hub(self.store, hub, title, base)
        self.supervisor.adopt(done.run.id, who)
        return {"run": done.run.id, "label": done.run.label, "base": done.base or None, "notes": done.notes}
