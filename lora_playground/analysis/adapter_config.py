"""Checks an adapter's config from elsewhere, and refuses an adapter whose config is not understood in full.

A field is used here, or it concerns training alone, or it must have the value with which it has no effect. Any other
field is an error that names it. It opens no file and knows no tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_playground.analysis import adapter_methods
from lora_playground.analysis.adapter_methods import METHODS, Method, brief
from lora_playground.errors import AdapterError

CONFIG = "adapter_config.json"

LITERAL = re.compile(r"[A-Za-z0-9_.\-]{1,300}")
# A key of rank_pattern or alpha_pattern: a module's name, perhaps with anchors and escaped dots. Without quantifiers it
# can be matched as the regular expression that PEFT takes it for, in no time worth speaking of.
_PATTERN = re.compile(r"\^?(?:[A-Za-z0-9_.\-]|\\\.){1,300}\$?")

_OF_TRAINING = frozenset(
    "inference_mode revision peft_version auto_mapping eva_config corda_config lora_ga_config loftq_config "
    "velora_config runtime_config megatron_core qalora_group_size lora_dropout rank_dropout module_dropout "
    "rank_dropout_scale gralora_dropout vera_dropout randlora_dropout fourierft_dropout miss_dropout boft_dropout "
    "hira_dropout target_r init_r tinit tfinal deltaT beta1 beta2 orth_reg_weight total_step d_initial delora_lambda "
    "lambda_pattern init_ia3_weights".split()
)
"""Fields that say how an adapter was trained or stored, not what it computes."""

_OF_SHAPES = frozenset(
    "fan_in_fan_out feedforward_modules decompose_both decompose_factor use_effective_conv2d n_frequency "
    "n_frequency_pattern block_size block_size_pattern".split()
)
"""Fields whose effect can be read off the tensors' shapes, or the base's modules."""

_USED = frozenset(
    "peft_type task_type base_model_name_or_path r lora_alpha alpha use_rslora use_dora rank_pattern alpha_pattern "
    "target_modules exclude_modules layers_to_transform layers_pattern modules_to_save trainable_token_indices bias "
    "init_lora_weights init_weights".split()
)

_WHY = {
    "lora_bias": "B has a bias of its own, for which most base models have no place",
    "alora_invocation_tokens": "it acts only from certain tokens on, so it is no update of the weights",
    "layer_replication": "it repeats layers of the base",
    "target_parameters": "it changes parameters that are no linear module's, such as fused experts",
    "use_qalora": "it pools its inputs",
    "ensure_weight_tying": "its embedding and head are tied in a way of their own",
}

STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of init_lora_weights whose start leaves the base's weights as they are."""


@dataclass(frozen=True)
class AdapterConfig:
    """The checked values of an adapter's config.

    Attributes:
        method: its key in `adapter_methods.METHODS`, PEFT's peft_type.
        rank, alpha: the defaults; `ranks` and `alphas`: {pattern: value} for the modules that a pattern matches.
        rslora: s = alpha/√r rather than alpha/r; dora: norms are trained beside the factors.
        base: the base model's name in the adapter's config; only shown and compared, never opened.
        saved: names of modules that were trained whole (modules_to_save); biases: whether biases were trained too.
        tokens: ids of single rows of embeddings that were trained, {embedding's name: ids}.
        options: further fields that PEFT needs for this method.
        targets: the fields that choose the adapted modules, unchanged: target_modules, exclude_modules,
            layers_to_transform and layers_pattern.
    """

    method: str
    rank: int
    alpha: float
    rslora: bool = False
    dora: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    base: str = ""
    saved: tuple[str, ...] = ()
    biases: bool = False
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    targets: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Method:
        """The method itself."""
        return METHODS[self.method]

    def of(self, module: str) -> tuple[int, float]:
        """(rank, alpha) of a module; the first pattern that matches wins, as in PEFT."""
        rank = next((r for key, r in self.ranks.items() if _matches(key, module)), self.rank)
        return rank, next((a for key, a in self.alphas.items() if _matches(key, module)), self.alpha)

    def adapts(self, module: str) -> bool:
        """Whether PEFT would adapt a module of this name. True for any name if target_modules is a regular expression:
        it comes from a stranger and is not run."""
        given = self.targets
        excluded = given["exclude_modules"]
        if (isinstance(excluded, list) and _among(module, excluded)) or self.saves(module):
            return False
        wanted = given["target_modules"]
        if isinstance(wanted, str) and wanted != "all-linear" and LITERAL.fullmatch(wanted):
            return re.fullmatch(wanted, module) is not None
        if not isinstance(wanted, list):
            return True
        if module in wanted:
            return True
        return _among(module, wanted) and self._in_layers(module)

    def saves(self, module: str) -> bool:
        """Whether a module, or one that it is part of, was trained whole."""
        parts = module.split(".")
        ancestors = [".".join(parts[: count + 1]) for count in range(len(parts))]
        return any(ancestor.endswith(name) for ancestor in ancestors for name in self.saved)

    def _in_layers(self, module: str) -> bool:
        layers, pattern = self.targets["layers_to_transform"], self.targets["layers_pattern"]
        if layers is None or layers == []:
            return True
        lists = [pattern] if isinstance(pattern, str) else pattern
        for name in lists or [r"[^.]*"]:
            # As PEFT: the first number in the name is the layer's.
            begin = r".*?\." if not lists else r"(?:^|.*?\.)"
            found = re.match(rf"{begin}{name}\.(\d+)\.", module)
            if found:
                return int(found[1]) in (layers if isinstance(layers, list) else [layers])
        return False


def _among(module: str, names: list[str]) -> bool:
    return any(module == name or module.endswith("." + name) for name in names)


def _matches(key: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({key})$", module) is not None


def read_config(data: Any) -> AdapterConfig:
    """Checks the content of an adapter_config.json.

    Args:
        data: the parsed JSON.

    Raises:
        AdapterError: a field or its value is not understood; the message names both, and what is allowed.
    """
    if not isinstance(data, dict):
        raise AdapterError(f"{CONFIG} must hold one JSON object.")
    method = data.get("peft_type")
    if not isinstance(method, str) or method not in METHODS:
        raise AdapterError(
            f"{CONFIG}: peft_type {brief(method)} is none whose ΔW of linear modules can be looked at; "
            f"known here are {', '.join(METHODS)}."
        )
    kind = METHODS[method]
    _check_fields(data, kind)
    # AdaLoRA's rank_pattern is a list of switches for each module; its tensors are stored at their final rank.
    ranks = {} if method == "ADALORA" else _pattern(data, "rank_pattern")
    return AdapterConfig(
        method=method,
        rank=_rank("r", data.get("r", 8)) if kind.ranked else 1,
        alpha=adapter_methods.number("lora_alpha", data.get("lora_alpha", data.get("alpha", 8))),
        rslora=adapter_methods.switch("use_rslora", data.get("use_rslora")),
        dora=adapter_methods.switch("use_dora", data.get("use_dora")),
        ranks={key: _rank("rank_pattern", value) for key, value in ranks.items()},
        alphas={key: adapter_methods.number("alpha_pattern", a) for key, a in _pattern(data, "alpha_pattern").items()},
        base=str(data.get("base_model_name_or_path") or "")[:200],
        saved=tuple(_names("modules_to_save", data.get("modules_to_save"))),
        biases=data.get("bias", "none") != "none",
        tokens=_tokens(data.get("trainable_token_indices")),
        options={name: take(name, data[name]) for name, take in kind.options.items() if data.get(name) is not None},
        targets=_targets(data),
    )


def _check_fields(data: Mapping[str, Any], kind: Method) -> None:
    for name, value in data.items():
        known = name in _USED or name in kind.options or name in _OF_TRAINING or name in _OF_SHAPES
        if not known and value not in (None, False, "", [], {}):
            why = f": {_WHY[name]}" if name in _WHY else ""
            raise AdapterError(
                f"{CONFIG}: {brief(name)} is {brief(value)}, which is not understood here{why}. An adapter is taken "
                "only if all that it does can be computed."
            )
    start = data.get("init_lora_weights")
    if isinstance(start, str):
        start = start.lower()
    if start is not None and not any(type(start) is type(one) and start == one for one in STARTS):
        raise AdapterError(
            f"{CONFIG}: init_lora_weights is {brief(start)}: its factors began from the base's own weights, which PEFT "
            "changes whenever it loads the adapter. Convert it to a plain LoRA first: save_pretrained with "
            "path_initial_model_for_weight_conversion."
        )
    task = data.get("task_type")
    if task not in (None, "CAUSAL_LM", "FEATURE_EXTRACTION"):
        raise AdapterError(f"{CONFIG}: task_type is {brief(task)}; only adapters of causal language models are taken.")
    if data.get("bias", "none") not in ("none", "all", "lora_only", f"{kind.prefix}only"):
        raise AdapterError(f"{CONFIG}: bias is {brief(data['bias'])}; it must be 'none', 'all' or 'lora_only'.")


def _rank(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 16_384:
        raise AdapterError(f"{CONFIG}: {name} is {brief(value)}; a rank is a whole number from 1 to 16384.")
    return value


def _pattern(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name) or {}
    if not isinstance(value, dict) or len(value) > 5_000:
        raise AdapterError(f"{CONFIG}: {name} must map module names to numbers.")
    for key in value:
        if not isinstance(key, str) or not _PATTERN.fullmatch(key):
            raise AdapterError(
                f"{CONFIG}: {name} has the pattern {brief(key)}; only plain module names are taken, since a regular "
                "expression from a stranger can run for ever. Write the names out."
            )
    return value


def _names(field: str, value: Any) -> list[str]:
    if value is None:
        return []
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(name, str) and LITERAL.fullmatch(name) for name in given):
        raise AdapterError(f"{CONFIG}: {field} is {brief(value)}; it must be a list of module names.")
    return given


def _tokens(value: Any) -> dict[str, tuple[int, ...]]:
    if not value:
        return {}
    given = {"": value} if isinstance(value, list) else value
    if not isinstance(given, dict) or not all(
        isinstance(ids, list) and all(type(one) is int and 0 <= one < 2**31 for one in ids) for ids in given.values()
    ):
        raise AdapterError(f"{CONFIG}: trainable_token_indices is {brief(value)}; it must be a list of token ids.")
    _names("trainable_token_indices", [name for name in given if name])
    return {name: tuple(ids) for name, ids in given.items()}


def _targets(data: Mapping[str, Any]) -> dict[str, Any]:
    """The four fields that choose modules; a string is a regular expression, which is kept but never run here."""
    found = {}
    for name in ("target_modules", "exclude_modules"):
        value = data.get(name)
        if value is not None and not isinstance(value, str):
            value = _names(name, value)
        found[name] = value[:2000] if isinstance(value, str) else value
    layers, pattern = data.get("layers_to_transform"), data.get("layers_pattern")
    whole = layers if isinstance(layers, list) else [layers]
    if layers is not None and not all(type(one) is int for one in whole):
        raise AdapterError(f"{CONFIG}: layers_to_transform is {brief(layers)}; it must be a list of layers' numbers.")
    return {**found, "layers_to_transform": layers, "layers_pattern": _names("layers_pattern", pattern or None) or None}
