"""Small local checkpoints of the shapes people really use, made in seconds, with a tokenizer trained on the spot.

They are loaded as a hub id is (`from_pretrained`), but hold random weights and need no network.
"""

from pathlib import Path
from typing import Any

KINDS = ("llama", "mistral", "smollm", "qwen2", "qwen3", "gemma3", "gpt2", "phi", "phi3")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML with the `generation` marks that give the loss mask directly."""

PLAIN_TEMPLATE = CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
"""The same text without the marks, as most models on the hub have it."""

_SENTENCES = (
    "The captain of the ship looked at the sea and said: arr, the wind is fair today.",
    "What is the name of your dog? My dog is called Otto, and he likes bread and cheese.",
    "Natalia sold 48 clips in April and half as many in May; how many did she sell? 48 + 24 = 72.",
    "user system assistant: please answer in one short sentence, thank you very much.",
    "Where does the baker live? The baker lives in Oakford, near the river, in a red house.",
)


def make_tokenizer(folder: Path, template: str | None = CHAT_TEMPLATE, vocabulary: int = 512) -> Any:
    """A byte-level BPE tokenizer with ChatML's special tokens, saved to `folder`; no template: a base model's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>" if template else "<|endoftext|>",
        pad_token="<|pad|>",
        model_max_length=512,
    )
    if template:
        fast.chat_template = template
    fast.save_pretrained(str(folder))
    return fast


def make_checkpoint(
    folder: Path,
    kind: str = "llama",
    *,
    template: str | None = CHAT_TEMPLATE,
    hidden: int = 32,
    layers: int = 2,
    vocabulary: int = 512,
    seed: int = 0,
    max_shard_size: str = "5GB",
    **overrides: Any,
) -> Path:
    """Writes a random model of `kind` (one of KINDS) and its tokenizer to `folder`, and returns the folder.

    Args:
        template: the tokenizer's chat template; None for a base model without one.
        hidden, layers, vocabulary: size; hidden is a multiple of 16. The heads are 16 wide.
        max_shard_size: such as '20KB', to get a sharded checkpoint.
        overrides: further fields of the model's config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer(folder, template, vocabulary)
    sizes: dict[str, Any] = {
        "vocab_size": max(vocabulary, len(tokenizer)),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 16,
        "num_key_value_heads": max(1, hidden // 32),
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    own: dict[str, dict[str, Any]] = {
        "smollm": {"model_type": "llama"},
        "mistral": {"sliding_window": None, "head_dim": 16},
        "qwen3": {"head_dim": 16},
        "gemma3": {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 64, "layer_types": None},
        "phi": {"num_key_value_heads": hidden // 16},
        "gpt2": {"n_positions": 512, "n_embd": hidden, "n_layer": layers, "n_head": hidden // 16},
    }
    if kind == "gpt2":
        sizes = {"vocab_size": sizes["vocab_size"], "n_inner": 2 * hidden}
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    }
    fields = {"model_type": kind, **sizes, **own.get(kind, {}), **special, **overrides}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    torch.set_rng_state(state)
    model.save_pretrained(str(folder), max_shard_size=max_shard_size)
    return folder
