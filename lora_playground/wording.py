"""Numbers with their nouns: '1 step', '2 steps'. It knows nothing of the rest of the package."""


def counted(number: float, noun: str, shown: str | None = None) -> str:
    """A number and its noun, which takes an s unless the number is one. `shown` is how the number is written."""
    return f"{number if shown is None else shown} {noun}{'' if number == 1 else 's'}"
