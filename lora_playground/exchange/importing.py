"""An adapter from elsewhere, or one cut down here, becomes a run: a folder that spectra, chat and comparison can read.

It knows run folders and adapters' files; nothing of queues, training or torch: where ΔW needs the base, `extraction`
takes it in a process of its own.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lora_playground.analysis import spectra_file
from lora_playground.analysis.adapter_file import CONFIG, DORA, TENSORS, Adapter, open_adapter
from lora_playground.analysis.adapter_methods import ALONE, SHAPES
from lora_playground.analysis.archive import unpack
from lora_playground.analysis.plain_lora import write_plain_lora
from lora_playground.analysis.spectra import Spectrum, analyse, effective_rank
from lora_playground.analysis.tensors import refuse_pickle
from lora_playground.analysis.update import Update, save_updates
from lora_playground.analysis.weights import Weights
from lora_playground.config import RunConfig
from lora_playground.errors import AdapterError, ConfigError, PlaygroundError
from lora_playground.exchange.extraction import extract
from lora_playground.models.catalogue import cached_snapshot, declared_sizes, folder_of, module_shapes
from lora_playground.runs import Run, RunStore
from lora_playground.runs.files import write_json, writing
from lora_playground.variants import VARIANTS

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
            without where neither fits. Without a base, a method whose ΔW is not told by its file is shown by its
            trained tensors, and a note says so.
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
        title = title or source.name.removesuffix(".zip")
        return _import(store, adapter, title, base, links, progress)


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


# --- the base it belongs to ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Base:
    """A base that an adapter may belong to: its source ('' for none), its folder where it is on this disk, its modules'
    (out, in) where they are known, and what a person should read of it."""

    source: str = ""
    folder: Path | None = None
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def tells(self, adapter: Adapter) -> bool:
        """Whether it is enough to take the adapter's ΔW, where the file alone is not."""
        known = all(module in self.shapes for module in adapter.parts)
        return known and (self.folder is not None or adapter.needs == SHAPES)


def _import(
    store: RunStore,
    adapter: Adapter,
    title: str,
    base: str | None,
    links: bool,
    progress: Callable[[int, int], None] | None,
) -> Imported:
    """Takes the first base that fits, with ΔW where base or file tell it."""
    refused: list[str] = []
    for found in _bases(adapter, base):
        whole = adapter.needs == ALONE and not adapter.config.dora
        if whole or not found.tells(adapter):
            if found.folder is not None and not whole:
                continue
            return _adopt(store, adapter, title, found, refused, None, progress)
        try:
            updates = extract(adapter, found.shapes, found.folder, links)
            return _adopt(store, adapter, title, found, refused, updates, progress)
        except AdapterError as error:
            if base:
                raise
            if found.source == adapter.config.base or _named_embedded(adapter):
                refused.append(f"With {found.source} as its base it could not be read: {error}")
    raise AssertionError("the last base is none, which fits everything")


def _bases(adapter: Adapter, base: str | None) -> Iterator[_Base]:
    """Bases in the order in which they are tried; raises AdapterError where an explicit one does not fit."""
    if base:
        folder = folder_of(base)
        if folder is None:
            found = _Base(base, None, _declared(base))
            note = "Its base model is not on this disk yet; it is fetched when it is first needed."
            tells = adapter.needs == ALONE or found.tells(adapter)
            yield replace(found, notes=[note if tells else _tensors_only(adapter)])
            return
        shapes = _shapes(folder, adapter)
        adapter.check_fits(shapes)
        yield _Base(base, folder, shapes)
        return
    for source in dict.fromkeys((adapter.config.base, "embedded")):
        # FourierFT's tensors have the same shapes whatever its base: only the name can tell.
        if source == "embedded" and adapter.config.method == "FOURIERFT" and not _named_embedded(adapter):
            continue
        try:
            # What a stranger's file names is looked up among downloaded models only, never as a path.
            named = cached_snapshot(source) if _is_hub_id(source) else None
            folder = folder_of(source) if source == "embedded" else named
            if folder is not None:
                shapes = _shapes(folder, adapter)
                adapter.check_fits(shapes)
                yield _Base(source, folder, shapes)
        except PlaygroundError:
            continue
    shown = f" ({adapter.config.base})" if adapter.config.base else ""
    note = f"Its base model{shown} is not on this disk, so it can be looked at, compared and cut, but not asked."
    known = _declared(adapter.config.base) if adapter.needs == SHAPES else {}
    if known and all(module in known for module in adapter.parts):
        yield _Base("", None, known, [note])
    yield _Base("", None, {}, [note if adapter.needs == ALONE else _tensors_only(adapter)])


def _tensors_only(adapter: Adapter) -> str:
    kind, named = adapter.config.kind, adapter.config.base or "its base model"
    why = "the weights W of its base" if adapter.needs != SHAPES else "the shapes of its base's modules"
    return (
        f"{kind.label}'s update depends on {why}, which this file does not hold. What is shown are its trained tensors "
        f"alone ({', '.join(part for part in kind.parts[:2])}), not ΔW, and they cannot be cut or asked. To see ΔW, "
        f"bring {named} onto this disk (choose it as the base of a run once, or give its folder to "
        "`python -m lora_playground import --base`) and import again."
    )


def _declared(source: str) -> Mapping[str, tuple[int, int]]:
    """Shapes of a base of the catalogue that is not on this disk."""
    sizes = declared_sizes(source)
    return {name: (out, into) for name, out, into in sizes.modules()} if sizes is not None else {}


def _is_hub_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and ".." not in name


def _named_embedded(adapter: Adapter) -> bool:
    return adapter.config.base.rstrip("/").rsplit("/", 1)[-1] == "embedded"


def _shapes(folder: Path, adapter: Adapter) -> Mapping[str, tuple[int, int]]:
    """Shapes of the base's modules; embeddings and head too where the adapter changes them."""
    known = {name: (out, into) for name, out, into in module_shapes(folder)}
    others = [module for module in adapter.shapes if module not in known]
    if others:
        weights = Weights(folder)
        for module in others:
            shape = weights.shape(module)
            if shape is not None and len(shape) == 2:
                known[module] = (shape[0], shape[1])
    return known


# --- the run ---------------------------------------------------------------------------------------------------------


def opened(run: Run) -> Adapter:
    """The adapter of an imported run whose updates are not kept beside it, because it is large.

    Raises:
        AdapterError: its ΔW was taken with its base, and is too large to be kept.
    """
    if ((run.result() or {}).get("imported") or {}).get("extracted"):
        raise AdapterError("its update was taken with its base and is too large to be kept here; its spectra are.")
    return open_adapter(run.adapter)


class _Keeping:
    """Passes updates on and keeps them, up to CHAT_BYTES of float32; beyond, it keeps none."""

    def __init__(self, updates: Iterator[Update]) -> None:
        self._updates = updates
        self.kept: list[Update] = []
        self.size = 0

    def __iter__(self) -> Iterator[Update]:
        for update in self._updates:
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
    base: _Base,
    refused: list[str],
    extracted: Iterator[Update] | None,
    progress: Callable[[int, int], None] | None,
) -> Imported:
    """The run of an adapter, with the updates of its file, or with those that were extracted with its base."""
    tells = extracted is not None or adapter.needs == ALONE
    notes = [note for note in adapter.notes if extracted is None or note != DORA] + base.notes + refused
    if adapter.config.kind.shared and not adapter.shared and extracted is not None:
        notes.append("Its random matrices are not saved with it; they are drawn again from its key, as PEFT does.")
    total = len(adapter.parts)
    taken = _Keeping(extracted) if extracted is not None else None
    spectra = analyse(
        adapter.updates() if taken is None else taken,
        None if progress is None else lambda done: progress(min(done, total), total),
    )
    size = 4 * sum(rank * sum(adapter.shapes[name]) for name, rank in adapter.ranks.items())
    size = size if taken is None else taken.size
    if tells and size > CHAT_BYTES:
        notes.append(f"It is too large ({size / 2**30:.1f} GiB) to be cut and asked here; it can be looked at.")
    run = store.create(_config(title if tells else f"{title[:62]} (trained tensors)", adapter, base))
    try:
        with writing(run.folder):
            run.adapter.mkdir()
            for name in (CONFIG, TENSORS):
                shutil.copyfile(adapter.folder / name, run.adapter / name)
            if tells and size <= CHAT_BYTES:
                save_updates(adapter.updates() if taken is None else taken.kept, run.update_path, {"source": "import"})
        about = {"method": adapter.config.method, "base": base.source, "notes": notes, "extracted": taken is not None}
        _finish(run, spectra, {"imported": about})
    except BaseException:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise
    return Imported(run, base.source, notes)


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


def _config(title: str, adapter: Adapter, base: _Base) -> RunConfig:
    """A config that names the variant of this app that is the same method, or LoRA where none is."""
    taken = adapter.config
    # Only what a hub could mean: a path that a stranger's file names is never looked at.
    source = base.source or (taken.base if _is_hub_id(taken.base) else "unknown")
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
    """Events as a finished training would have left them, the whole spectra, then the result."""
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
