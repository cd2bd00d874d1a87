"""A model folder's tokenizer and chat template without transformers, for the web process to show what a model sees.

It has the few methods that `data.encoding` calls; tests compare its tokens and masks with those of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_playground.errors import ModelError
from lora_playground.models.loading import FALLBACK_TEMPLATE, template_beside
from lora_playground.templates.rendering import render

_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


class PlainTokenizer:
    """A tokenizer with the methods that `data.encoding.encode` needs.

    Args:
        folder: a model folder with tokenizer.json and tokenizer_config.json.

    Raises:
        ModelError: these files are missing or damaged.

    Attributes:
        chat_template: the model's own, or the fallback.
        own_template: whether it is the model's own.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
            settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            template = _template(folder, settings)
        except Exception as error:  # the tokenizers library raises plain Exception
            raise ModelError(f"The tokenizer of this model cannot be shown ({str(error)[:200]}).") from error
        self.own_template = bool(template)
        self.chat_template = template or FALLBACK_TEMPLATE
        self._special = {name: text for name in _NAMES if (text := _content(settings.get(name)))}
        self._tokenizer.add_special_tokens(_special_tokens(settings, self._special))
        self.eos_token = self._special.get("eos_token")
        self.eos_token_id = self._tokenizer.token_to_id(self.eos_token) if self.eos_token else None
        if self.eos_token_id is None:
            raise ModelError("The model's tokenizer has no end-of-sequence token, so answers could not end.")

    @property
    def all_special_tokens(self) -> list[str]:
        """Texts of the special tokens in the settings: beginning, end, unknown, padding."""
        return list(self._special.values())

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Id → token (with `content` and `special`) of the tokens added to the trained vocabulary."""
        return dict(self._tokenizer.get_added_tokens_decoder())

    def get_added_vocab(self) -> dict[str, int]:
        """Token → id of the tokens added to the trained vocabulary."""
        return {token.content: number for number, token in self._tokenizer.get_added_tokens_decoder().items()}

    def apply_chat_template(self, conversation: Sequence[dict[str, Any]], tokenize: bool = False, **given: Any) -> str:
        """A chat as text; raises whatever the template raises. `given`: further names that the template may use."""
        return self.render_tagged(conversation, **given)[0]

    def render_tagged(self, conversation: Sequence[dict[str, Any]], **given: Any) -> tuple[str, list[tuple[int, int]]]:
        """(a chat as text, spans of characters between its generation tags)."""
        given = {"add_generation_prompt": False, **self._special, **given}
        return render(self.chat_template, conversation, **given)

    def __call__(self, text: str | list[str], add_special_tokens: bool = True, **options: Any) -> dict[str, Any]:
        """Token ids and character offsets of a text, or lists of them."""
        several = [text] if isinstance(text, str) else text
        done = self._tokenizer.encode_batch(several, add_special_tokens=add_special_tokens)
        ids, offsets = [one.ids for one in done], [one.offsets for one in done]
        if isinstance(text, str):
            return {"input_ids": ids[0], "offset_mapping": offsets[0]}
        return {"input_ids": ids, "offset_mapping": offsets}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        """Tokens as text."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def _template(folder: Path, settings: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    given = settings.get("chat_template")
    if isinstance(given, list):
        named = {one["name"]: one["template"] for one in given}
        given = named.get("default", "")
    return str(given or template_beside(folder))


def _content(token: Any) -> str:
    """A special token's text, which is stored as a text or as an object with `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _special_tokens(settings: dict[str, Any], named: dict[str, str]) -> list[Any]:
    """The special tokens that the settings have in addition to those of tokenizer.json."""
    from tokenizers import AddedToken

    more = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    texts = [*named.values(), *map(_content, more.values() if isinstance(more, dict) else more)]
    return [AddedToken(text, special=True, normalized=False) for text in dict.fromkeys(texts) if text]
