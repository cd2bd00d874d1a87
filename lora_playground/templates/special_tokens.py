"""Keeps what a person typed from acting as a special token: ending a turn, or speaking in another role.

Only tokens that the tokenizer calls special are broken up. Other added tokens, such as runs of spaces or HTML tags,
are ordinary text and stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def special_tokens(tokenizer: Any) -> list[str]:
    """The texts of a tokenizer's special tokens, longest first. It walks all added tokens: ask once for many texts."""
    added = (getattr(tokenizer, "added_tokens_decoder", None) or {}).values()
    texts = {str(token) for token in added if token.special} | set(getattr(tokenizer, "all_special_tokens", ()))
    return sorted((text for text in texts if len(text) > 1), key=lambda text: (-len(text), text))


def neutralise(text: str, special: Sequence[str]) -> str:
    """The text with a space inside each special token that it contains: "<|end|>" becomes "< |end|>".

    Args:
        special: what `special_tokens` returned.
    """
    for token in special:
        if token in text:
            text = text.replace(token, token[0] + " " + token[1:])
    return text


def neutral(messages: Sequence[dict[str, Any]], special: Sequence[str]) -> list[dict[str, Any]]:
    """Messages whose contents and tool calls contain no special token.

    Args:
        special: what `special_tokens` returned.
    """
    return [
        {key: value if key == "role" else _neutral(value, special) for key, value in turn.items()} for turn in messages
    ]


def _neutral(value: Any, special: Sequence[str]) -> Any:
    if isinstance(value, str):
        return neutralise(value, special)
    if isinstance(value, dict):
        return {neutralise(str(key), special): _neutral(item, special) for key, item in value.items()}
    return [_neutral(item, special) for item in value] if isinstance(value, list) else value
