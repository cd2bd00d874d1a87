"""Which base models there are, where they lie, and the shapes of their modules, read from file headers alone.

It knows nothing of torch: forms, estimates and the command line use it without loading a model.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from lora_playground.analysis.tensors import LARGE, TensorFile
from lora_playground.analysis.weights import CONV1D_MODELS
from lora_playground.assets import ASSETS
from lora_playground.errors import AdapterError, AssetError, ConfigError, ModelError
from lora_playground.hub import cache
from lora_playground.models.gguf import INSTALLED, converted_folder, gguf_file, installed
from lora_playground.models.model_shape import ModelShape, model_shape
from lora_playground.models.sources import allowed, named

EMBEDDED = ASSETS / "models" / "embedded"
HUB = Path(__file__).with_name("hub.toml")
REBUILD = "python -m tools.embedded_model.tokenizer && python -m tools.embedded_model.pretrain"

UNKNOWN = "unknown"
"""The `model.source` of an imported adapter whose base model is not known."""

SMALL = 50_000_000
"""Parameters up to which a model on a processor is small: in the chat it is read in float32, by one thread. Few rows
take no longer in float32 than in bfloat16, and a thread that waits for another beside a training run waits for long."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_BLOCK = re.compile(r"^(?:(?P<prefix>.+)\.)?(?P<list>layers|h|blocks|block)\.(?P<number>\d+)\.(?P<rest>.+)\.weight$")
_MAMBA = {"bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "mamba", "mamba2", "nemotron_h", "zamba2"}
EXPERTS = ".experts."
"""Part of the names of all weights of experts."""
NOT_TEXT = re.compile(r"(^|\.)(vision|visual|audio|image|multi_modal|experts|router|block_sparse_moe|mtp)[^.]*(\.|$)")
"""Names of modules that no text goes through, or that choose among experts."""
_ORDER = (
    "q_proj k_proj v_proj qkv_proj c_attn query_key_value o_proj out_proj dense attn.c_proj attention.dense "
    "gate_proj up_proj gate_up_proj fc1 c_fc dense_h_to_4h down_proj fc2 mlp.c_proj dense_4h_to_h"
).split()


@dataclass(frozen=True)
class ModelCard:
    """What a person needs to know to choose a base model.

    Attributes:
        source: what to give as ``model.source``.
        label: a short name.
        parameters: how many, or 0 if unknown.
        licence: its SPDX id or name; gated: whether the hub wants a login and an accepted licence.
        notes: one sentence.
        on_disk: whether it can be used with no network.
        template: the name of its chat template, '' if it has none.
    """

    source: str
    label: str
    parameters: int
    licence: str
    gated: bool = False
    notes: str = ""
    on_disk: bool = False
    template: str = ""


@lru_cache(maxsize=1)
def _hub_models() -> tuple[tuple[ModelCard, dict[str, Any]], ...]:
    """(card, sizes as in config.json) of the hub models that are offered, from the one file that declares them."""
    with open(HUB, "rb") as file:
        listed = tomllib.load(file)["model"]
    return tuple(
        (
            ModelCard(
                one["source"],
                one["label"],
                one["parameters"] * 10**6,
                one["licence"],
                one["gated"],
                one["notes"],
                template=one["template"],
            ),
            one["config"],
        )
        for one in listed
    )


def list_models() -> list[ModelCard]:
    """The embedded model, that of an installed package, those in the folders that the server was given (`sources`),
    and small instruct models of the hub, in this order.

    A damaged embedded model is listed as not on disk.
    """
    try:
        _check_embedded()
        count, there = parameter_count(EMBEDDED), True
    except (AssetError, ModelError):
        count, there = 0, False
    cards = [
        ModelCard("embedded", "Embedded", count, "Apache-2.0", False, "Ships with the app; runs on any CPU.", there)
    ]
    if installed("smollm2-135m") is not None:
        label, notes = "SmolLM2 135M Instruct, real, offline", "Of an installed package; it is converted once."
        cards.append(ModelCard("smollm2-135m", label, 135 * 10**6, "Apache-2.0", False, notes, True, "ChatML"))
    cards += [ModelCard(str(path), path.name, 0, "", notes="On this server.", on_disk=True) for path in named()]
    return cards + [replace(card, on_disk=cached_snapshot(card.source) is not None) for card, _ in _hub_models()]


def resolve(source: str, local: bool = True) -> Path | str:
    """Turns ``model.source`` into a folder. A source that must first be fetched or converted is returned as given.

    Args:
        source: 'embedded', the name of a model that a package brings, an existing folder, a GGUF file, or a hub id such
            as 'Qwen/Qwen3-0.6B'.
        local: whether folders and files are allowed.

    Raises:
        AssetError: the embedded model is missing or damaged; nothing else is tried in its place.
        ConfigError: it is none of these. ModelError: a folder without a usable model, or UNKNOWN.
    """
    if source == "embedded":
        _check_embedded()
        return EMBEDDED
    if source == UNKNOWN:
        raise ModelError("The base model of this adapter is not known; import it again and say which one it is.")
    wanted = "give 'embedded', an existing folder or .gguf file, or a hub id such as Qwen/Qwen3-0.6B"
    parts = source.split("/")
    if "\0" in source or "://" in source or len(source) > 400 or ".." in parts:
        raise ConfigError("model.source", source, wanted)
    folder = Path(source).expanduser()
    if source not in INSTALLED and not allowed(folder) and (folder.exists() or not _HUB_ID.fullmatch(source)):
        # The same words whether there is such a folder or not.
        raise ConfigError("model.source", source, "choose a model of the list, or a hub id such as Qwen/Qwen3-0.6B")
    if not local and source not in INSTALLED and folder.exists():
        raise ConfigError("model.source", source, "folders cannot be chosen here; choose a model of the list")
    if (file := gguf_file(source)) is not None:
        converted = converted_folder(file)
        return converted if converted.is_dir() else source
    if folder.is_dir():
        _check_folder(folder)
        return folder.resolve()
    if not _HUB_ID.fullmatch(source) or any(part.startswith((".", "-")) or ".." in part for part in parts):
        raise ConfigError("model.source", source, wanted)
    return source


def folder_of(source: str) -> Path | None:
    """The folder with the files of `source` on this disk, or None for a hub model that is not downloaded."""
    place = resolve(source)
    return place if isinstance(place, Path) else cached_snapshot(place)


def cached_snapshot(hub_id: str) -> Path | None:
    """The newest complete snapshot of a hub model in the local hub cache, or None."""
    snapshots = cache() / ("models--" + hub_id.replace("/", "--")) / "snapshots"
    try:
        found = sorted(snapshots.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
    except OSError:
        return None
    for snapshot in found:
        try:
            _check_folder(snapshot)
            return snapshot
        except ModelError:
            continue
    return None


def sizes_of(source: str) -> ModelShape | None:
    """The sizes of a base model: from its files if it is on this disk, else those that the catalogue declares; None for
    another hub model that is not here yet. Errors as `resolve`, and ModelError if its config has no sizes."""
    folder = folder_of(source)
    if folder is not None:
        return model_shape(read_config(folder))
    return declared_sizes(source)


def declared_sizes(source: str) -> ModelShape | None:
    """The sizes that the catalogue declares for a model; None for one that it does not list. No file is looked at."""
    source = "HuggingFaceTB/SmolLM2-135M-Instruct" if source == "smollm2-135m" else source
    declared = next((sizes for card, sizes in _hub_models() if card.source == source), None)
    return None if declared is None else model_shape(declared)


def is_conv1d(source: str) -> bool:
    """Whether the model's linear modules are GPT-2's Conv1D; False if that is not known yet."""
    folder = folder_of(source)
    if folder is None:
        return any(card.source == source and sizes["model_type"] in CONV1D_MODELS for card, sizes in _hub_models())
    return read_config(folder).get("model_type") in CONV1D_MODELS


def module_shapes(folder: Path) -> list[tuple[str, int, int]]:
    """The Linear and Conv1D modules inside the transformer blocks, in the order in which data flows through them.

    Args:
        folder: a model folder with config.json and safetensors, one file or sharded.

    Returns:
        (module name as in the loaded model, out features, in features); no head, embeddings, norms, routers, experts
        or vision towers. GPT-2's Conv1D weights lie as (in, out) in the file and are turned.

    Raises:
        ModelError: no readable safetensors, or weights that are stored quantised.
    """
    config = read_config(folder)
    turned = config.get("model_type") in CONV1D_MODELS
    shapes = tensor_shapes(folder)
    if "quantization_config" in config:
        raise ModelError(
            f"{folder.name} is stored quantised; choose its 16-bit original and set quantisation to 4bit or 8bit."
        )
    experts = any(EXPERTS in name for name in shapes)
    found: list[tuple[tuple[str, int, int, str], tuple[str, int, int]]] = []
    for key, shape in shapes.items():
        match = _BLOCK.match(key)
        if not match or len(shape) != 2 or NOT_TEXT.search(key) or match["rest"].endswith(("norm", "embed")):
            continue
        if not is_adaptable(match["rest"], str(config.get("model_type")), experts):
            continue
        out, into = (shape[1], shape[0]) if turned else (shape[0], shape[1])
        prefix = _prefix(match["prefix"], match["list"])
        name = f"{prefix}.{match['list']}.{match['number']}.{match['rest']}"
        found.append(((prefix, int(match["number"]), _place(match["rest"]), match["rest"]), (name, out, into)))
    return [module for _, module in sorted(found)]


def is_adaptable(name: str, kind: str, experts: bool) -> bool:
    """Whether a linear module can have an update.

    Left out are the modules that choose among experts; in a model with experts also its MLPs, because PEFT would take
    their names for those of the experts; and modules of a Mamba layer that are never called, because only their weights
    are used, so that no output can be added to.

    Args:
        name: the module's. kind: its model's model_type. experts: whether that model has experts.
    """
    leaf = name.rpartition(".")[2]
    if leaf in ("gate", "router", "dt_proj", "x_proj") or leaf.endswith("expert_gate"):
        return False
    if experts and leaf in ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"):
        return False
    return not (leaf == "out_proj" and kind in _MAMBA)


def parameter_count(folder: Path) -> int:
    """Parameters of the model in `folder`, from the headers; tied weights are stored, and counted, once."""
    return sum(prod(shape) for shape in tensor_shapes(folder).values())


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json as a dict; raises ModelError naming the file."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}); a model folder needs a valid config.json.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object; a model folder needs a valid config.json.")
    return config


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all stored tensors by name, from the safetensors headers of one file or of all shards."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        shapes |= {name: entry.shape for name, entry in _opened(path).entries.items()}
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model itself, one or its shards; raises ModelError if they are not all there."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        pickled = any(folder.glob("*.bin"))
        why = "it only has pickled .bin weights, which can run code" if pickled else "there are no weights in it"
        raise ModelError(f"{folder} holds no model.safetensors: {why}. Choose a model stored as safetensors.")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{index} cannot be read ({error}); download the model again.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise ModelError(f"{index} names the shard {name!r}, which is not in the folder; download the model again.")
    return [folder / name for name in names]


def _opened(path: Path) -> TensorFile:
    try:
        return TensorFile(path, *LARGE)
    except AdapterError as error:
        raise ModelError(f"{error} Fetch or build {path} again.") from error


def _check_folder(folder: Path) -> None:
    read_config(folder)
    for path in weight_files(folder):
        _opened(path)


def _check_embedded() -> None:
    """Raises AssetError naming the file that is missing or damaged and the command that rebuilds it."""
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if not (EMBEDDED / name).is_file():
            raise AssetError(f"The embedded model's file {EMBEDDED / name} is missing; rebuild it with: {REBUILD}")
    try:
        _check_folder(EMBEDDED)
        json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    except (ModelError, ValueError, OSError) as error:
        raise AssetError(f"The embedded model in {EMBEDDED} is damaged: {error} Rebuild it with: {REBUILD}") from error


def _prefix(stored: str | None, blocks: str) -> str:
    """The loaded model's prefix of the list of blocks; some files leave its first part out."""
    if stored is None or stored == "":
        return "transformer" if blocks == "h" else "model"
    if stored == "language_model.model":
        return "model.language_model"
    return stored


def _place(rest: str) -> int:
    """A module's position within its block: attention before the MLP, inputs before outputs."""
    ends = [number for number, end in enumerate(_ORDER) if rest == end or rest.endswith("." + end)]
    return max(ends, default=len(_ORDER))
