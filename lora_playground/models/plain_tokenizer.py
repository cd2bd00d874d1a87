"""A model folder's tokenizer and chat template without transformers, to show in the web process what a model will see.

It has the few methods that `data.encoding` calls, and is tested to give the same tokens and masks as the library's own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lora_playground.errors import ModelError
from lora_playground.models.loading import FALLBACK_TEMPLATE

_GENERATION = re.compile(r"\{%(-?)\s*generation\s*(-?)%\}")
_END = re.compile(r"\{%(-?)\s*endgeneration\s*(-?)%\}")
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


class PlainTokenizer:
    """What `data.encoding.encode` needs of a tokenizer.

    Args:
        folder: a model folder with tokenizer.json and tokenizer_config.json.

    Raises:
        ModelError: they are missing or damaged.

    Attributes:
        chat_template: the model's own, its marks of generated text made inert, or the fallback.
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
        marked = template or FALLBACK_TEMPLATE
        # Kept in place as conditions, so that their trimming of white space still holds.
        self.chat_template = _END.sub(r"{%\1 endif \2%}", _GENERATION.sub(r"{%\1 if true \2%}", marked))
        self._special = {name: _content(settings.get(name)) for name in _NAMES}
        self.eos_token = self._special["eos_token"]
        self.eos_token_id = self._tokenizer.token_to_id(self.eos_token) if self.eos_token else None
        if self.eos_token_id is None:
            raise ModelError("The model's tokenizer has no end-of-sequence token, so answers could not end.")
        self._compiled: Any = None

    @property
    def all_special_tokens(self) -> list[str]:
        """Texts of the tokens that the settings name: beginning, end, unknown, padding."""
        return [token for token in self._special.values() if token]

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Id → token (with `content` and `special`) of those beside the trained vocabulary."""
        return dict(self._tokenizer.get_added_tokens_decoder())

    def get_added_vocab(self) -> dict[str, int]:
        """Tokens beside the trained vocabulary, and their ids."""
        return {token.content: number for number, token in self._tokenizer.get_added_tokens_decoder().items()}

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> str:
        """A chat as text; raises what the template raises."""
        if self._compiled is None:
            self._compiled = _compile(self.chat_template)
        special = {name: token for name, token in self._special.items() if token}
        given = special | options
        return self._compiled.render(
            messages=conversation, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **given
        )

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
    return str(given or "")


def _content(token: Any) -> str:
    """A special token's text: it is stored as such, or as an object with `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _compile(template: str) -> Any:
    """As transformers compiles chat templates: sandboxed, with loop controls, and with its few functions."""
    from datetime import datetime

    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def as_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **others: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **others)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)
