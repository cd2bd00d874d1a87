"""An adapter from elsewhere, or one cut down here, becomes a run: a folder that spectra, chat and comparison can read.

It knows run folders and adapters' files; nothing of queues, training or torch.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_playground.analysis import kept
from lora_playground.analysis.archive import unpack
from lora_playground.analysis.importing import CONFIG, TENSORS, Adapter, open_adapter
from lora_playground.analysis.spectra import Spectrum, analyse, effective_rank
from lora_playground.analysis.tensors import refuse_pickle
from lora_playground.analysis.update import Update, save_updates
from lora_playground.config import RunConfig
from lora_playground.errors import AdapterError, PlaygroundError
from lora_playground.models.catalogue import cached_snapshot, folder_of, module_shapes
from lora_playground.runs import Run, RunStore, write_json, writing
from lora_playground.variants.plain_lora import write_plain_lora

CHAT_BYTES = 2**30
"""Largest update, as float32, that is kept ready for chat and cuts; larger ones can be looked at only."""

_VALUES = 2_000
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class Imported:
    """What came of an import: the run, the base it was matched with ('' for none), and what a person should read."""

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
        base: model source it belongs to; None tries what the adapter names and then the embedded model, and goes
            without where neither fits.
        links: whether the folder's files may be symbolic links (a hub cache).
        progress: called with (modules done, modules).

    Raises:
        AdapterError: it is no adapter, hostile, damaged, or does not fit the base asked for. No run is left then.
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
        matched, notes = _match(adapter, base)
        title = title or source.name.removesuffix(".zip")
        return _adopt(store, adapter, title, matched, adapter.notes + notes, progress)


def import_files(
    store: RunStore,
    files: Sequence[Path],
    title: str = "",
    base: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """As `import_adapter`, from an upload: one zip, or the two files of an adapter's folder; others beside them (a
    README, a tokenizer) are not looked at."""
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
    """As `import_adapter`, from the Hugging Face hub: only the two files of an adapter are fetched.

    Raises:
        AdapterError: no such adapter, no safetensors in it, or no network.
    """
    if not _HUB_ID.fullmatch(hub_id) or ".." in hub_id:
        raise AdapterError(f"{hub_id[:80]!r} is no hub id; it looks like 'somebody/some-adapter'.")
    from huggingface_hub import hf_hub_download

    try:
        # Without the owner's token: anyone who may open the page may ask for this.
        paths = [Path(hf_hub_download(hub_id, name, token=False)) for name in (CONFIG, TENSORS)]
    except Exception as error:  # the client's errors share no base class but Exception
        first = str(error).strip().split("\n")[0][:160]
        raise AdapterError(
            f"{hub_id} cannot be fetched ({first}). It must hold {CONFIG} and {TENSORS}, and this machine must reach "
            "the hub; without a network, upload a zip instead."
        ) from error
    return import_adapter(store, paths[0].parent, title or hub_id, base, links=True, progress=progress)


def _match(adapter: Adapter, base: str | None) -> tuple[str, list[str]]:
    """The model source that the adapter's shapes fit; raises AdapterError where an explicit one does not."""
    if base:
        folder = folder_of(base)
        if folder is None:
            return base, ["Its base model is not on this disk yet; it is fetched when it is first needed."]
        adapter.check_fits(_shapes(folder, adapter))
        return base, []
    for source in dict.fromkeys((adapter.config.base, "embedded")):
        try:
            # What a stranger's file names is looked up among downloaded models only, never as a path.
            named = cached_snapshot(source) if _HUB_ID.fullmatch(source) and ".." not in source else None
            folder = folder_of(source) if source == "embedded" else named
            if folder is not None:
                adapter.check_fits(_shapes(folder, adapter))
                return source, []
        except PlaygroundError:
            continue
    shown = f" ({adapter.config.base})" if adapter.config.base else ""
    return "", [f"Its base model{shown} is not on this disk, so it can be looked at, compared and cut, but not asked."]


def _shapes(folder: Path, adapter: Adapter) -> Mapping[str, tuple[int, int]]:
    """Shapes of the base's modules; embeddings and head too where the adapter changes them."""
    from lora_playground.analysis.tensors import Weights

    known = {name: (out, into) for name, out, into in module_shapes(folder)}
    others = [module for module in adapter.shapes if module not in known]
    if others:
        weights = Weights(folder)
        for module in others:
            shape = weights.shape(module)
            if shape is not None and len(shape) == 2:
                known[module] = (shape[0], shape[1])
    return known


def _adopt(
    store: RunStore,
    adapter: Adapter,
    title: str,
    base: str,
    notes: list[str],
    progress: Callable[[int, int], None] | None,
) -> Imported:
    rank = max(adapter.ranks.values())
    config = _config(title, base or adapter.config.base or "unknown", rank, adapter.config.alpha)
    total = len(adapter.shapes)
    spectra = analyse(adapter.updates(), None if progress is None else lambda done: progress(done, total))
    run = store.create(config)
    try:
        with writing(run.folder):
            run.adapter.mkdir()
            for name in (CONFIG, TENSORS):
                shutil.copyfile(adapter.folder / name, run.adapter / name)
            size = 4 * sum(rank * sum(adapter.shapes[name]) for name, rank in adapter.ranks.items())
            if size <= CHAT_BYTES:
                save_updates(adapter.updates(), run.update_path, {"source": "import"})
            else:
                notes = [
                    *notes,
                    f"It is too large ({size / 2**30:.1f} GiB) to be cut and asked here; it can be looked at.",
                ]
        _finish(run, spectra, {"imported": {"method": adapter.config.method, "base": base, "notes": notes}})
    except BaseException:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise
    return Imported(run, base, notes)


def derive(store: RunStore, parent: Run, updates: Sequence[Update], title: str, made: Mapping[str, Any]) -> Run:
    """A run that holds changed updates of another (cut, scaled), saved as a plain LoRA that stock PEFT loads.

    Args:
        updates: what is left; must not be empty.
        made: how it came about, kept in the result.
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


def _config(title: str, base: str, rank: int, alpha: float) -> RunConfig:
    variant = {"name": "lora", "rank": min(rank, 4096), "alpha": min(max(float(alpha), 1e-6), 65_536.0)}
    data = {"title": title.strip()[:80], "model": {"source": base[:400]}, "data": {"dataset": "imported"}}
    return RunConfig.parse({**data, "variant": variant})


def _finish(run: Run, spectra: Mapping[str, Spectrum], result: Mapping[str, Any]) -> None:
    """Events as a finished training would have left them, the whole spectra, then the result."""
    with writing(run.folder):
        kept.save_spectra(spectra, run.folder / kept.NAME)
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
