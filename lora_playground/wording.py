"""Numbers with their nouns: '1 step', '2 steps'. It knows nothing of the rest of the package."""


def counted(number: float, one: str, shown: str | None = None, many: str = "") -> str:
    """A number and its noun, which takes an s unless the number is one.

    Args:
        number: decides between singular and plural. one: the singular.
        shown: the number as written, '2 000'; None writes `number`.
        many: the plural if it is not the singular with an s: counted(2, 'row is', many='rows are').
    """
    written = str(number) if shown is None else shown
    return f"{written} {one if number == 1 or written == '1' else many or f'{one}s'}"
