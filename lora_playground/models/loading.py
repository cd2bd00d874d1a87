"""Loads a base model with its tokenizer, in 16/32, 8 or 4 bit, and takes its fingerprint before anything is attached.

It knows nothing of variants, data or runs. Code in a model's repository is never run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_playground.config import ModelConfig
from lora_playground.errors import ModelError
from lora_playground.hub import Progress, fetch, first_line
from lora_playground.models.catalogue import cached_snapshot, read_config, resolve, tensor_shapes, weight_files
from lora_playground.models.gguf import convert, gguf_file
from lora_playground.models.model_shape import vocabulary
from lora_playground.models.precision import pick_device, torch_dtype
from lora_playground.models.sources import check_size
from lora_playground.templates.special_tokens import special_tokens

if TYPE_CHECKING:
    import torch

FALLBACK_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ 'Assistant:\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% else %}{{ 'User:\n' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""The chat template for base models without one. A prompt ends in a line break, not in a space, which would merge with
the first word of the answer into one token, so that training and answering would differ."""

_ENDINGS = (".json", ".safetensors", ".model", ".txt", ".jinja")


@dataclass(frozen=True)
class Fingerprint:
    """Identifies a base model, and shows whether it has been changed.

    Attributes:
        identity: SHA-256 of the model's type and of names, shapes and samples of the stored weights; the same on every
            machine.
        logits: (8, k) float32, the logits of a fixed prompt, of at most 512 evenly spaced vocabulary entries.
    """

    identity: str
    logits: np.ndarray

    def drift(self, model: torch.nn.Module) -> float:
        """Largest change of these logits, relative to the largest logit; 0 if the base is unchanged."""
        now = prompt_logits(model)
        return float(np.abs(now - self.logits).max() / max(float(np.abs(self.logits).max()), 1e-12))


@dataclass
class Base:
    """A loaded base model.

    Attributes:
        model: the causal language model, in evaluation mode, without gradients.
        tokenizer: always with a chat template and a padding token. folder: of its files.
        device, dtype: where and in which dtype it computes.
        fingerprint: taken before anything was attached.
        own_template: whether the chat template is the model's own; else it is FALLBACK_TEMPLATE.
        bits: 16 (whatever the dtype), 8 or 4.
    """

    model: Any
    tokenizer: Any
    folder: Path
    device: torch.device
    dtype: torch.dtype
    fingerprint: Fingerprint
    own_template: bool = True
    bits: int = 16


def load_base(
    config: ModelConfig,
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    progress: Progress | None = None,
) -> Base:
    """Loads the base model that `config` names.

    Args:
        config: source and quantisation.
        device: 'auto', 'cpu', 'cuda' or 'cuda:1'.
        dtype: a torch dtype, 'float32' or 'bfloat16'; None or 'auto' for what `base_dtype` chooses.
        progress: called with (bytes done, all bytes) of a download; may raise to stop it.

    Raises:
        ConfigError, AssetError, ModelError: each says what was given and what to do.
    """
    import torch

    place = resolve(config.source)
    folder = place if isinstance(place, Path) else download(place, progress)
    target = torch.device(pick_device(device))
    chosen = base_dtype(config, dtype, target.type)
    tokenizer, own_template = load_tokenizer(folder)
    model = _load_model(folder, config, target, chosen)
    model.eval().requires_grad_(False)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    logits = prompt_logits(model)
    if not np.isfinite(logits).all():
        raise ModelError(f"{config.source} computes NaN in {chosen}; set precision to float32, or fetch it again.")
    fingerprint = Fingerprint(identity(folder), logits)
    return Base(model, tokenizer, folder, target, chosen, fingerprint, own_template, config.bits)


def base_dtype(config: ModelConfig, dtype: str | torch.dtype | None, device: str) -> torch.dtype:
    """The number type of a base's weights: as asked, or else what `models.precision` finds fast on the device. The
    embedded model is then float32 on a CPU: in bfloat16 a step is a fifth shorter there, and some data is learned only
    half as well in as many steps (docs/benchmarks.md)."""
    if dtype in (None, "auto") and config.embedded and device == "cpu":
        dtype = "float32"
    return torch_dtype(dtype, device)


def load_tokenizer(folder: Path) -> tuple[Any, bool]:
    """(tokenizer of a model folder, with a padding token and a chat template; whether the template is its own)."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except BaseException as error:  # also a panic in the tokenizers library, which is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ModelError(f"The tokenizer in {folder} cannot be loaded ({first_line(error)}); fetch it again.") from None
    if tokenizer.eos_token is None:
        raise ModelError(f"The tokenizer in {folder} has no end-of-sequence token, so answers could not end.")
    rows = vocabulary(read_config(folder)) if (folder / "config.json").is_file() else None
    if rows is not None and tokenizer.eos_token_id >= rows:
        raise ModelError(
            f"The tokenizer in {folder} ends answers with token {tokenizer.eos_token_id}, and the model knows {rows} "
            "tokens; they do not belong together."
        )
    if tokenizer.pad_token is None or (rows is not None and tokenizer.pad_token_id >= rows):
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(tokenizer.chat_template, dict):  # several, by name
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    tokenizer.chat_template = tokenizer.chat_template or template_beside(folder)
    own = bool(tokenizer.chat_template)
    if not own:
        tokenizer.chat_template = FALLBACK_TEMPLATE
    if rows is not None:
        _require_rows(tokenizer, rows, folder)
    return tokenizer, own


def template_beside(folder: Path) -> str:
    """The template in chat_template.json, in which older vision models have it and which tokenizers do not read; or
    ''."""
    try:
        found = json.loads((folder / "chat_template.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    return str(found.get("chat_template") or "") if isinstance(found, dict) else ""


def _require_rows(tokenizer: Any, rows: int, folder: Path) -> None:
    """Raises ModelError if a text or the template can have a token for which the embedding has no row."""
    beyond = [token for token, number in tokenizer.get_vocab().items() if number >= rows]
    if not beyond:
        return
    special = set(special_tokens(tokenizer))
    used = [token for token in beyond if token not in special or token in tokenizer.chat_template]
    used += [token for token in beyond if token == tokenizer.bos_token and "bos_token" in tokenizer.chat_template]
    if used:
        raise ModelError(
            f"The tokenizer in {folder} has the token {used[0][:40]!r}, and the model's embedding of {rows} rows has "
            "none for it; they do not belong together."
        )


def download(hub_id: str, progress: Progress | None = None) -> Path:
    """The folder of a hub model, from the local cache or downloaded (an interrupted download is continued, see
    `hub.fetch`); or that of a GGUF file, which is converted if needed."""
    if (file := gguf_file(hub_id)) is not None:
        return convert(file, progress)
    return cached_snapshot(hub_id) or fetch(hub_id, partial(_wanted, hub_id), progress=progress)


def _wanted(hub_id: str, sizes: dict[str, int]) -> list[str]:
    """Config, tokenizer and safetensors files of the repository's top folder. Raises ModelError if there are none."""
    top = [name for name in sizes if "/" not in name and not name.startswith("consolidated")]
    names = [name for name in top if name.endswith(_ENDINGS)]
    if not any(name.endswith(".safetensors") for name in names):
        pickled = any(name.endswith((".bin", ".pt", ".pth")) for name in top)
        why = "only pickled weights, which can run code" if pickled else "no weights"
        raise ModelError(f"{hub_id} holds {why}. Choose a model stored as safetensors.")
    check_size(hub_id, sum(sizes[name] for name in names))
    return names


def identity(folder: Path) -> str:
    """SHA-256 over the model's type, its tensors' names and shapes, and 64 kB of each weight file's middle."""
    digest = hashlib.sha256(str(read_config(folder).get("model_type")).encode())
    for name, shape in sorted(tensor_shapes(folder).items()):
        digest.update(f"{name}{shape}".encode())
    for path in weight_files(folder):
        with open(path, "rb") as file:
            file.seek(path.stat().st_size // 2)
            digest.update(file.read(65_536))
    return digest.hexdigest()


def fingerprint_ids(model: Any) -> list[int]:
    """The fixed prompt of a fingerprint: eight token ids."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return [(index * 7919 + 11) % vocabulary for index in range(8)]


def sampled(logits: torch.Tensor) -> torch.Tensor:
    """At most 512 evenly spaced vocabulary entries of logits (T, V), as float32."""
    return logits[:, :: -(-logits.shape[-1] // 512)].float()


def prompt_logits(model: Any) -> np.ndarray:
    """Logits (8, k) of a fingerprint's prompt, by transformers' own pass."""
    import torch

    ids = torch.tensor([fingerprint_ids(model)], device=model.get_input_embeddings().weight.device)
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0]
    model.train(training)
    return sampled(logits).cpu().numpy()


def _load_model(folder: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "use_safetensors": True}
    # transformers would load an adapter that is in the folder into the model, so it is told to look elsewhere.
    options["adapter_kwargs"] = {"subfolder": "no-adapter"}
    if config.quantisation != "none":
        options["quantization_config"] = _quantisation(config.quantisation, dtype)
        options["device_map"] = {"": str(device)}
    errors: list[BaseException] = []
    for attention in ("sdpa", "eager"):
        try:
            model, found = AutoModelForCausalLM.from_pretrained(
                str(folder), attn_implementation=attention, output_loading_info=True, **options
            )
            _require_all(folder, found["missing_keys"])
            break
        except (ValueError, ImportError, OSError, KeyError, RuntimeError, AttributeError, TypeError) as error:
            if _is_out_of_memory(error):
                raise ModelError(
                    f"{config.source} does not fit into the memory of {device}; choose a smaller model or 4bit."
                ) from error
            errors.append(error)
            if "scaled_dot_product_attention" not in str(error):
                raise ModelError(
                    f"{config.source} cannot be loaded as a causal language model ({first_line(error)}). "
                    "Choose a text model that the installed transformers knows; code from the hub is never run."
                ) from error
    else:
        raise ModelError(f"{config.source} cannot be loaded ({first_line(errors[-1])}).")
    if config.quantisation == "none":
        try:
            model = model.to(device)
        except RuntimeError as error:
            if _is_out_of_memory(error):
                raise ModelError(
                    f"{config.source} does not fit into the memory of {device}; choose a smaller model or 4bit."
                ) from error
            raise
    elif device.type == "cpu":
        keep_stored_layout(model)
    return model


def _require_all(folder: Path, missing: Collection[str]) -> None:
    """Raises ModelError if weights are missing, which transformers would fill with random numbers."""
    if missing:
        names, more = sorted(missing), len(missing) - 3
        said = ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
        made = (read_config(folder).get("architectures") or ["another model"])[0]
        raise ModelError(
            f"{folder.name} holds no {said}, which a causal language model needs: its files are those of {made}, or "
            "not complete. Choose the whole language model."
        )


def keep_stored_layout(model: Any) -> None:
    """Keeps 4-bit weights as they were quantised.

    On processors with AVX512-BF16, bitsandbytes repacks a weight at its first forward pass in eval mode. That rounds
    the blocks' scales to bfloat16, which changes W by up to 0.4%, and fails if a row is no multiple of a block.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _quantisation(kind: str, dtype: torch.dtype) -> Any:
    """bitsandbytes options: NF4 with double quantisation (QLoRA), or LLM.int8()."""
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:
        raise ModelError(f"{kind} needs bitsandbytes, which cannot be loaded here ({first_line(error)}).") from error
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _is_out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower()
