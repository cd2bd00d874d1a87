"""What the web process shows as the model's view is what the model gets: the same tokens and the same mask."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import CHAT_TEMPLATE, PLAIN_TEMPLATE, make_tokenizer

from lora_playground.data.encoding import coloured, encode
from lora_playground.errors import ModelError
from lora_playground.models.catalogue import EMBEDDED
from lora_playground.models.loading import load_tokenizer
from lora_playground.models.plain_tokenizer import PlainTokenizer

ROWS = [
    {
        "messages": [
            {"role": "user", "content": "Where is  the dog?"},
            {"role": "assistant", "content": " In Oakford.\n"},
        ]
    },
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "<|im_end|> hello"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": "48 + 24 = 72, naïve 狗"},
        ]
    },
    {"text": "The captain of the ship looked at the sea."},
]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, PLAIN_TEMPLATE, None])
def test_same_tokens_and_mask_as_the_library(tmp_path: Path, template: str | None) -> None:
    make_tokenizer(tmp_path, template)
    plain, library = PlainTokenizer(tmp_path), load_tokenizer(tmp_path)[0]
    assert plain.own_template == bool(template)
    mine, theirs = encode(plain, ROWS, 40), encode(library, ROWS, 40)
    assert (mine.truncated, mine.unlearnable) == (theirs.truncated, theirs.unlearnable)
    for one, other in zip(mine.examples, theirs.examples, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.learned, other.learned)
        assert coloured(plain, one) == coloured(library, other)


def test_the_embedded_model() -> None:
    plain, library = PlainTokenizer(EMBEDDED), load_tokenizer(EMBEDDED)[0]
    for one, other in zip(encode(plain, ROWS, 200).examples, encode(library, ROWS, 200).examples, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.learned, other.learned)


def test_damaged_or_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be shown"):
        PlainTokenizer(tmp_path)
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{]")
    with pytest.raises(ModelError, match="cannot be shown"):
        PlainTokenizer(tmp_path)


def test_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from lora_playground.models.plain_tokenizer import PlainTokenizer as P; "
        "from lora_playground.models.catalogue import EMBEDDED; P(EMBEDDED)('hi'); "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
