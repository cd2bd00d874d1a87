"""Makes a run of an adapter from elsewhere, or of an update changed here (cut, scaled, mixed), so that spectra, chat
and comparison can read it.

It knows run folders and adapters' files; nothing of queues, training or torch. If ΔW cannot be computed without the
base, `extraction` does it in a process of its own.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_playground.analysis import spectra_file
from lora_playground.analysis.adapter_config import CONFIG
from lora_playground.analysis.adapter_file import TENSORS, Adapter, open_adapter
from lora_playground.analysis.adapter_methods import ALONE
from lora_playground.analysis.archive import unpack
from lora_playground.analysis.plain_lora import write_plain_lora
from lora_playground.analysis.spectra import Spectrum, analyse, effective_rank
from lora_playground.analysis.tensors import refuse_pickle
from lora_playground.analysis.update import Update, save_updates
from lora_playground.analysis.weights import Weights
from lora_playground.config import RunConfig
from lora_playground.errors import AdapterError, ConfigError, ModelError, PlaygroundError
from lora_playground.exchange.bases import Base, bases_of, is_hub_id
from lora_playground.exchange.extraction import extract
from lora_playground.exchange.verification import check_import
from lora_playground.models.catalogue import UNKNOWN
from lora_playground.models.gguf import INSTALLED
from lora_playground.models.sources import check_size, is_shared
from lora_playground.runs import Run, RunStore
from lora_playground.runs.files import write_json, writing
from lora_playground.variants import VARIANTS

CHAT_BYTES = 2**30
"""Largest update, in bytes of float32, that is stored for chat and cuts; of larger ones only the spectra are shown."""

_VALUES = 2_000
"""About how many singular values of all modules together go into the `spectra` event."""


@dataclass(frozen=True)
class Imported:
    """The result of an import: the run, the source of the base it was matched with ('' for none), notes for the
    person."""

    run: Run
    base: str
    notes: list[str]


def import_adapter(
    store: RunStore,
    source: Path,
    title: str = "",
    base: str | None = None,
    links: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Makes a run of a PEFT adapter in a folder or a zip; nothing is written outside the new run's folder.

    Args:
        store: where the run is made.
        source: folder or zip.
        title: the run's name; empty takes the source's.
        base: source of the base model; None tries what the adapter's file names, then the embedded model, then no base.
            Without a base, an adapter whose file does not determine ΔW can only be looked at, and a note says so.
        links: whether the folder's files may be symbolic links (a hub cache).
        progress: called with (modules done, modules).

    Raises:
        AdapterError: it is no adapter, unsafe, damaged, or does not fit the base asked for. No run is left behind.
    """
    with tempfile.TemporaryDirectory(prefix="lora-playground-") as place:
        if source.is_dir():
            folder = source
        elif source.is_file():
            if source.name in (TENSORS, CONFIG):
                raise AdapterError(f"give {CONFIG} and {TENSORS} together, as a folder or a zip.")
            if not source.name.lower().endswith(".zip"):
                refuse_pickle(source)
                raise AdapterError(f"{source.name} is neither a folder nor a zip with {CONFIG} and {TENSORS}.")
            folder = Path(place)
            unpack(source, folder)
        else:
            raise AdapterError(f"there is no {source.name}.")
        adapter = open_adapter(folder, links)
        title = title or source.name.removesuffix(".zip")
        return _import(store, adapter, title, base, links, progress)


def import_files(
    store: RunStore,
    files: Sequence[Path],
    title: str = "",
    base: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Like `import_adapter`, from an upload: one zip, or the two files of an adapter's folder. Other files (a README, a
    tokenizer) are ignored."""
    if len(files) == 1:
        return import_adapter(store, files[0], title, base, progress=progress)
    by_name = {path.name: path for path in files if path.name in (CONFIG, TENSORS)}
    if set(by_name) != {CONFIG, TENSORS}:
        for path in files:
            refuse_pickle(path)
        shown = ", ".join(sorted(path.name for path in files))[:120] or "nothing"
        raise AdapterError(f"upload one zip, or {CONFIG} and {TENSORS} together; given were {shown}.")
    with tempfile.TemporaryDirectory(prefix="lora-playground-") as place:
        for name, path in by_name.items():
            shutil.copyfile(path, Path(place) / name)
        return import_adapter(store, Path(place), title or "imported adapter", base, progress=progress)


def import_from_hub(
    store: RunStore,
    hub_id: str,
    title: str = "",
    base: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Like `import_adapter`, from the Hugging Face hub. Only the two files of an adapter are downloaded.

    Raises:
        AdapterError: there is no such adapter, it has no safetensors file, or there is no network.
    """
    if not is_hub_id(hub_id):
        raise AdapterError(f"{hub_id[:80]!r} is no hub id; it looks like 'somebody/some-adapter'.")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        if is_shared():
            for name in (CONFIG, TENSORS):
                check_size(hub_id, get_hf_file_metadata(hf_hub_url(hub_id, name), token=False).size or 0)
        # Without the server owner's token, since any visitor can ask for this.
        paths = [Path(hf_hub_download(hub_id, name, token=False)) for name in (CONFIG, TENSORS)]
    except ModelError as error:
        raise AdapterError(str(error)) from error
    except Exception as error:  # the client's errors share no base class but Exception
        first = str(error).strip().split("\n")[0][:160]
        raise AdapterError(
            f"{hub_id} cannot be fetched ({first}). It must hold {CONFIG} and {TENSORS}, and this machine must reach "
            "the hub; without a network, upload a zip instead."
        ) from error
    return import_adapter(store, paths[0].parent, title or hub_id, base, links=True, progress=progress)


def _import(
    store: RunStore,
    adapter: Adapter,
    title: str,
    base: str | None,
    links: bool,
    progress: Callable[[int, int], None] | None,
) -> Imported:
    """Imports with the first base that fits, or without one."""
    refused: list[str] = []
    for found in bases_of(adapter, base, _familiar(store)):
        try:
            updates = _updates(adapter, found, links) if found.tells(adapter) else None
            return _adopt(store, adapter, title, found, refused, updates, progress)
        except AdapterError as error:
            if base or found.folder is None:
                raise
            refused.append(f"It could not be taken with {found.source} as its base: {error}")
    raise AssertionError("the last base is none, which fits everything")


def _familiar(store: RunStore) -> set[str]:
    """The sources of base models of this home's runs."""
    found = set(INSTALLED)
    for run in store.list()[:100]:
        with contextlib.suppress(PlaygroundError):
            found.add(run.config().model.source)
    return found - {UNKNOWN}


def _updates(adapter: Adapter, base: Base, links: bool) -> Iterator[Update]:
    """All updates of an adapter, from its file or, if that is not enough, with its base's weights."""
    if adapter.needs == ALONE and not adapter.config.dora:
        yield from adapter.updates()
    else:
        yield from extract(adapter, base.shapes, base.folder, links)
    if base.folder is not None and (adapter.saved or adapter.rows or adapter.held):
        yield from adapter.replacements(Weights(base.folder))


# --- the run ---------------------------------------------------------------------------------------------------------


def opened(run: Run) -> Adapter:
    """Opens the adapter of an imported run whose updates were too large to be stored.

    Raises:
        AdapterError: its ΔW cannot be computed from the file alone.
    """
    if ((run.result() or {}).get("imported") or {}).get("extracted"):
        raise AdapterError("its update was taken with its base and is too large to be kept here; its spectra are.")
    return open_adapter(run.adapter)


class _Keeping:
    """Iterates over updates and collects those that are not zero; if they exceed CHAT_BYTES of float32, none."""

    def __init__(self, updates: Iterator[Update]) -> None:
        self._updates = updates
        self.kept: list[Update] = []
        self.size = 0

    def __iter__(self) -> Iterator[Update]:
        for update in self._updates:
            if update.dense is not None and not update.dense.any():
                continue
            self.size += sum(4 * part.size for part in (update.B, update.A, update.dense) if part is not None)
            if self.size > CHAT_BYTES:
                self.kept.clear()
            else:
                self.kept.append(update)
            yield update


def _adopt(
    store: RunStore,
    adapter: Adapter,
    title: str,
    base: Base,
    refused: list[str],
    updates: Iterator[Update] | None,
    progress: Callable[[int, int], None] | None,
) -> Imported:
    """Makes the run of an adapter, with all its updates or, if these are None, with what its file alone shows."""
    notes = [*base.notes, *refused]
    if adapter.config.kind.shared and not adapter.shared and updates is not None:
        notes.append("Its random matrices are not saved with it; they are drawn again from its key, as PEFT does.")
    total = len(adapter.parts)
    taken = _Keeping(adapter.updates() if updates is None else updates)
    spectra = analyse(taken, None if progress is None else lambda done: progress(min(done, total), total))
    if updates is not None and taken.size > CHAT_BYTES:
        notes.append(f"It is too large ({taken.size / 2**30:.1f} GiB) to be cut and asked here; it can be looked at.")
    tensors_only = updates is None and adapter.needs != ALONE
    run = store.create(_config(f"{title[:62]} (trained tensors)" if tensors_only else title, adapter, base))
    try:
        with writing(run.folder):
            run.adapter.mkdir()
            for name in (CONFIG, TENSORS):
                shutil.copyfile(adapter.folder / name, run.adapter / name)
            if updates is not None and taken.size <= CHAT_BYTES:
                save_updates(taken.kept, run.update_path, {"source": "import"})
        if base.folder is not None and run.update_path.is_file() and not _plain(adapter):
            notes += filter(None, [check_import(base.folder, run.adapter, run.update_path)])
        with_base = updates is not None and not adapter.complete
        about = {"method": adapter.config.method, "base": base.source, "notes": notes, "extracted": with_base}
        _finish(run, spectra, {"imported": about})
    except BaseException:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise
    return Imported(run, base.source, notes)


def _plain(adapter: Adapter) -> bool:
    """Whether it is a plain LoRA: only factors, for modules listed by name, so that it needs no check against PEFT."""
    config = adapter.config
    listed = isinstance(config.targets["target_modules"], list) and config.targets["layers_to_transform"] is None
    linear = all("lora_A" in parts for parts in adapter.parts.values())
    plain = adapter.complete and not (adapter.held or config.ranks or config.alphas or config.biases)
    return config.method == "LORA" and plain and listed and linear


def derive(store: RunStore, parent: Run, updates: Sequence[Update], title: str, made: Mapping[str, Any]) -> Run:
    """Makes a run of changed updates of another one (cut, scaled, mixed), saved as a plain LoRA, which PEFT can load.

    Args:
        updates: the changed updates. made: how they were made, for the run's result.

    Raises:
        AdapterError: there are no updates. RunError: the run cannot be written.
    """
    if not updates:
        raise AdapterError("nothing is left of the adapter, so there is nothing to save; keep at least one direction.")
    config = parent.config()
    run = store.create(config.model_copy(update={"title": title[:80], "federated": None}))
    try:
        with writing(run.folder):
            save_updates(updates, run.update_path)
            written = write_plain_lora(updates, run.adapter, base=config.model.source)
        note = [f"{len(written.left_out)} norms and biases do not fit into a LoRA and are left out."]
        result = {"derived": {"from": parent.id, **made, "notes": note if written.left_out else []}}
        known = parent.result() or {}
        result |= {key: known[key] for key in ("fingerprint", "device", "precision") if key in known}
        _finish(run, analyse(updates), result)
    except BaseException:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise
    return run


def _config(title: str, adapter: Adapter, base: Base) -> RunConfig:
    """A config with the variant of this app that is the adapter's method, or LoRA if there is none."""
    taken = adapter.config
    # A path that an imported file names is never opened; only an id of the hub is taken over.
    source = base.source or (taken.base if is_hub_id(taken.base) else UNKNOWN)
    name = "dora" if taken.dora else "rslora" if taken.rslora else taken.kind.variant or "lora"
    size = {
        "rank": min(max(adapter.ranks.values()), 4096),
        "alpha": min(max(float(taken.alpha), 1e-6), 65_536.0),
    }
    data = {"title": title.strip()[:80], "model": {"source": source[:400]}, "data": {"dataset": "imported"}}
    known = {key: value for key, value in size.items() if key in VARIANTS[name].config.model_fields}
    try:
        return RunConfig.parse({**data, "variant": {"name": name, **known}})
    except ConfigError:  # such as an odd rank where this app allows even ones
        return RunConfig.parse({**data, "variant": {"name": "lora", **size}})


def _finish(run: Run, spectra: Mapping[str, Spectrum], result: Mapping[str, Any]) -> None:
    """Writes the events and the result that a finished training would have written."""
    with writing(run.folder):
        spectra_file.save_spectra(spectra, run.folder / spectra_file.NAME)
    run.begin(1)
    modules = [[name, *spectrum.shape] for name, spectrum in spectra.items()]
    run.append({"type": "plan", "steps": 0, "start_step": 0, "modules": modules})
    shown = max(8, _VALUES // max(1, len(spectra)))
    run.append(
        {
            "type": "spectra",
            "step": 0,
            "spectra": {name: [float(f"{v:.4g}") for v in s.values[:shown]] for name, s in spectra.items()},
            "effective_rank": {name: float(f"{effective_rank(s.values):.4g}") for name, s in spectra.items()},
            "frobenius": {name: float(f"{s.frobenius:.4g}") for name, s in spectra.items()},
            "modules_dense": any(not s.exact for s in spectra.values()),
        }
    )
    size = sum(path.stat().st_size for path in run.adapter.iterdir() if path.is_file())
    write_json(run.result_path, {"state": "done", "steps": 0, "adapter_bytes": size, **result})
