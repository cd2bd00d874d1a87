"""Trains the byte-level BPE tokenizer on the corpus and saves it with the chat template.

The tokenizer puts a space before the first word of every segment, and the decoder removes it, so that a word is the
same token everywhere: a name learnt in mid-sentence is the same token at the start of an answer.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lora_playground.models.catalogue import EMBEDDED
from tools.embedded_model.corpus import Messages, chats
from tools.embedded_model.world import build_world

VOCABULARY = 4096
PAD, BOS, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIALS = [PAD, BOS, END, USER, ASSISTANT, SYSTEM]
CONTEXT = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
    "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% elif message['role'] in ['user', 'system'] %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('roles are system, user and assistant, not ' + message['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)  # fmt: skip


def train_tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> Any:
    """A `tokenizers.Tokenizer` of at most `size` tokens (fewer if the corpus offers no more merges)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes it as AutoTokenizer reads it: tokenizer.json, tokenizer_config.json, chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "bos_token": BOS, "eos_token": END,
        "pad_token": PAD, "clean_up_tokenization_spaces": False, "add_bos_token": False, "padding_side": "right",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def render(messages: Messages) -> str:
    """The chat as text, as the template writes it; pretraining uses it."""
    return BOS + "".join(f"<|{m['role']}|>{m['content']}{END}" for m in messages)


def main() -> None:
    """Trains on a sample of the corpus and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    parser.add_argument("--chats", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    stream = itertools.islice(chats(build_world(), args.seed), args.chats)
    tokenizer = train_tokenizer(m["content"] for chat in stream for m in chat)
    save_tokenizer(tokenizer, args.out)
    print(f"{tokenizer.get_vocab_size()} tokens -> {args.out}")


if __name__ == "__main__":
    main()
