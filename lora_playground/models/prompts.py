"""Converts a conversation to the token ids of a prompt, and finds the ids that end a reply.

It knows the tokenizer's chat template; nothing of decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_playground.errors import ChatError
from lora_playground.templates import chat_template
from lora_playground.templates.special_tokens import neutral, special_tokens

ROLES = ("system", "user", "assistant", "tool")


def prompt_text(tokenizer: Any, conversation: Sequence[dict[str, Any]]) -> str:
    """The conversation in the model's own template, up to the point where the assistant begins to speak."""
    if not conversation:
        raise ChatError("There is nothing to answer: the conversation is empty.")
    for message in conversation:
        if message.get("role") not in ROLES:
            raise ChatError(f"A message's role is {message.get('role')!r}; it must be one of {', '.join(ROLES)}.")
        content = str(message["content"])
        if not content.isascii() and any("\ud800" <= character <= "\udfff" for character in content):
            raise ChatError("A message holds half of a character (a lone surrogate); no tokenizer reads that.")
    messages = neutral([{**turn, "content": str(turn["content"])} for turn in conversation], special_tokens(tokenizer))
    if getattr(tokenizer, "chat_template", None):
        try:
            return chat_template.prompt(tokenizer, messages)
        except Exception as error:  # the template is a program of the model's authors and may raise anything
            raise ChatError(f"The model's chat template refuses this conversation: {str(error)[:200]}") from error
    lines = [f"{message['role']}: {message['content']}\n" for message in messages]
    return "".join(lines) + "assistant:"


def can_be_asked(tokenizer: Any, conversation: Sequence[dict[str, Any]]) -> bool:
    """Whether the model's template can render the conversation: it may not know turns of tools."""
    if not any(turn["role"] == "tool" or "tool_calls" in turn for turn in conversation):
        return True
    try:
        text = prompt_text(tokenizer, conversation)
    except ChatError:
        return False
    calls = [call["function"]["name"] for turn in conversation for call in turn.get("tool_calls", ())]
    return all(name in text for name in calls)


def prompt_ids(tokenizer: Any, conversation: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of `prompt_text`."""
    text = prompt_text(tokenizer, conversation)
    templated = bool(getattr(tokenizer, "chat_template", None))
    return list(tokenizer(text, add_special_tokens=not templated)["input_ids"])


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a reply: the tokenizer's end token, those of the model's generation configuration, and those
    with which the chat template ends an answer."""
    found = set(chat_template.stop_tokens(tokenizer))
    for value in (
        getattr(tokenizer, "eos_token_id", None),
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(getattr(model, "config", None), "eos_token_id", None),
    ):
        if isinstance(value, int):
            found.add(value)
        elif isinstance(value, (list, tuple)):
            found.update(int(item) for item in value)
    return frozenset(found)
