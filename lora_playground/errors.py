"""Exceptions whose text is meant for the user: what was given, what is allowed, what to do.

This module knows nothing of the rest of the package.
"""


class PlaygroundError(Exception):
    """An error that the user can understand and mend; its text is one or two plain sentences."""


class ConfigError(PlaygroundError):
    """A value in a form, a flag or a file is not allowed.

    Attributes:
        field: dotted path of the field, such as ``variant.rank``; '' if several fields do not fit together.
        value: the wrong value. The text shows it if it is something that one types, not a larger structure.
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
    """An adapter or update cannot be read, has no spectrum, or does not fit the model or update it is used with."""


class RunError(PlaygroundError):
    """A run does not exist, or is not in a state that allows what was asked."""


class TrainingError(PlaygroundError):
    """Training had to stop: the loss is not finite, the memory is full, there is nothing to learn from."""


class JobError(PlaygroundError):
    """The queue refuses a request or cannot carry it out."""


class ChatError(PlaygroundError):
    """The chat process cannot answer."""


class LessonError(PlaygroundError):
    """A lesson's file is wrong, or a step does not accept the answer or the run."""


class AccessError(PlaygroundError):
    """The user is not allowed to do this; the text says what is needed."""
