"""Finds the base model of an adapter: the one that the user gives, the one that its config names, or the embedded one.

It reads configs and headers of model folders; nothing of runs or torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_playground.analysis.adapter_file import Adapter
from lora_playground.analysis.adapter_methods import ALONE, SHAPES
from lora_playground.analysis.weights import Weights
from lora_playground.errors import AdapterError, PlaygroundError
from lora_playground.models.catalogue import cached_snapshot, declared_sizes, folder_of, module_shapes

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class Base:
    """A base model that an adapter may belong to.

    Attributes:
        source: '' for none. folder: None if it is not on this disk. shapes: {module: (out, in)}, {} if not known.
        notes: sentences for the person who imports the adapter.
    """

    source: str = ""
    folder: Path | None = None
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def tells(self, adapter: Adapter) -> bool:
        """Whether ΔW of every module can be computed from the adapter's file and this base."""
        if adapter.complete:
            return True
        by_shapes = adapter.needs in (ALONE, SHAPES) and not (adapter.config.dora or adapter.saved or adapter.rows)
        return all(module in self.shapes for module in adapter.parts) and (self.folder is not None or by_shapes)


def bases_of(adapter: Adapter, asked: str | None, familiar: Collection[str] = ()) -> Iterator[Base]:
    """Yields the bases to try, in order. Unless `asked` is given, the last has no source: the adapter without a base.

    Args:
        asked: the source that the person named, which is then the only one; None to search.
        familiar: sources that people have used here. A folder that the adapter's file names is opened only if it is one
            of these.

    Raises:
        AdapterError: the base that the user gives does not fit.
    """
    if asked:
        folder = folder_of(asked)
        if folder is not None:
            yield Base(asked, folder, _checked(folder, adapter))
            return
        found = Base(asked, None, _declared(asked))
        note = "Its base model is not on this disk yet; it is fetched when it is first needed."
        yield Base(asked, None, found.shapes, [note if found.tells(adapter) else _to_look_at(adapter, note)])
        return
    named = adapter.config.base
    if named and not is_hub_id(named):
        named = next((source for source in sorted(familiar) if _folder(source) == named.rstrip("/")), named)
    note = f"Its base model{f' ({named})' if named else ''} is not on this disk."
    for source in dict.fromkeys((named, "embedded")):
        # FourierFT's tensors have the same shapes for every base, so only the base's name can tell.
        if source == "embedded" and adapter.config.method == "FOURIERFT" and not _is_embedded(named):
            continue
        # What an imported file names is looked up among downloaded models, never opened as a path.
        own = source == "embedded" or source in familiar
        folder = folder_of(source) if own else cached_snapshot(source) if is_hub_id(source) else None
        if folder is None:
            continue
        try:
            yield Base(source, folder, _checked(folder, adapter))
        except PlaygroundError as error:
            if source == named or _is_embedded(named):
                note = f"Its base model {source} is on this disk, but it does not fit: {error}"
    if named and named not in familiar and not is_hub_id(named) and not _is_embedded(named):
        note = (
            f"It names its base model {named!r}, which is no id of the hub, and folders that a stranger names are "
            "not opened; say which model it is (`--base`)."
        )
    known = _declared(named) if adapter.needs == SHAPES else {}
    without = Base("", None, known if all(module in known for module in adapter.parts) else {})
    words = _to_look_at(adapter, note)
    if without.tells(adapter):
        words = f"{note} So it can be looked at, compared and cut, but not asked."
    yield Base("", None, without.shapes, [words])


def _folder(source: str) -> str:
    """The folder of a source as text; '' if it is not on this disk."""
    try:
        folder = folder_of(source)
    except PlaygroundError:
        return ""
    return "" if folder is None else str(folder)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a model's id on the hub, such as 'somebody/some-model'."""
    return bool(_HUB_ID.fullmatch(name)) and ".." not in name


def _is_embedded(name: str) -> bool:
    return name.rstrip("/").rsplit("/", 1)[-1] == "embedded"


def _to_look_at(adapter: Adapter, note: str) -> str:
    """A note that says what can be done with an adapter without its base, and why no more."""
    kind, named = adapter.config.kind, adapter.config.base or "its base model"
    if adapter.needs == ALONE:
        whole = "DoRA's trained lengths" if adapter.config.dora else "whole modules or rows of embeddings"
        shown = f"s·B·A alone, without what {whole} change"
        why = f"{whole}, whose effect depends on the weights of its base"
    else:
        shown = f"its trained tensors alone ({', '.join(kind.parts[:2])}), not ΔW"
        why = "an update that depends on " + (
            "the weights W of its base" if adapter.needs != SHAPES else "the shapes of its base's modules"
        )
    return (
        f"{note} This {kind.label} adapter has {why}. What is shown is {shown}, and it cannot be cut or asked. For "
        f"all of it, bring {named} onto this disk (choose it as the base of a run once, or give its folder to "
        "`python -m lora_playground import --base`) and import again."
    )


def _declared(source: str) -> Mapping[str, tuple[int, int]]:
    """{module: (out, in)} of a base of the catalogue that is not on this disk."""
    sizes = declared_sizes(source)
    return {name: (out, into) for name, out, into in sizes.modules()} if sizes is not None else {}


def _checked(folder: Path, adapter: Adapter) -> Mapping[str, tuple[int, int]]:
    """{module: (out, in)} of the base, including modules outside its layers that the adapter changes.

    Raises:
        AdapterError: the adapter changes a module that the base does not have, or a position embedding.
    """
    for name in (*adapter.shapes, *adapter.saved, *adapter.rows):
        if ".embed_positions" in f".{name}":
            raise AdapterError(
                f"the adapter changes {name}, a table of positions that its model calls with a mask rather than with "
                "ids: no update of it is computed here, and stock PEFT fails on a LoRA of it."
            )
    known = {name: (out, into) for name, out, into in module_shapes(folder)}
    weights = Weights(folder)
    root = next(iter(known), "model.").split(".")[0]
    for module in adapter.shapes:
        shape = weights.shape(module) if module not in known and weights.has(module, root) else None
        if shape is not None and len(shape) == 2:
            known[module] = (shape[0], shape[1])
    adapter.check_fits(known)
    for name in (*adapter.saved, *adapter.rows, *adapter.held):
        adapter.check_has(name, weights.has(name, root))
    return known
