"""Exceptions whose text is meant for the person at the screen: what was given, what is allowed, what to do.

This module knows nothing of the rest of the package.
"""


class PlaygroundError(Exception):
    """Anything that a person can understand and mend; its text is one or two plain sentences."""


class ConfigError(PlaygroundError):
    """A value in a form, a flag or a file is not allowed.

    Attributes:
        field: dotted path of the field, such as ``variant.rank``; '' where several fields do not fit together.
        value: what was given. The text shows it where a person may have typed it, and no larger structure.
        allowed: what is allowed, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        shown = repr(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        if not field:
            super().__init__(f"{allowed[:1].upper()}{allowed[1:]}.")
        elif isinstance(value, dict):
            super().__init__(f"{field}: {allowed}.")
        else:
            super().__init__(f"{field}: {shown} is not allowed; {allowed}.")


class DataError(PlaygroundError):
    """A dataset cannot be read or holds nothing to train on; the text names the file, the row and the remedy."""


class ModelError(PlaygroundError):
    """A base model cannot be found, read or used."""


class AssetError(PlaygroundError):
    """A file that ships with the app is missing or damaged; the text names the command that rebuilds it."""


class AdapterError(PlaygroundError):
    """An adapter or update cannot be read, has no spectrum, or does not fit what it is laid against."""


class RunError(PlaygroundError):
    """A run does not exist, or is not in a state that allows what was asked."""


class TrainingError(PlaygroundError):
    """Training had to stop: the loss is not finite, the memory is full, there is nothing to learn from."""


class JobError(PlaygroundError):
    """The queue refuses or cannot do what was asked."""


class ChatError(PlaygroundError):
    """The chat process cannot answer."""


class LessonError(PlaygroundError):
    """A lesson's file is wrong, or a step cannot take what was given or done."""


class AccessError(PlaygroundError):
    """Who asks may not; the text says what is needed."""
