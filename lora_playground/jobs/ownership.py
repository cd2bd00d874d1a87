"""Who may change a run or a sweep: stop, resume, rename or delete it. It knows no queue."""

from __future__ import annotations

from lora_playground.models.sources import is_shared


def may_change(owner: str, visitor: str) -> bool:
    """Whether a visitor may change what `owner` has started.

    Runs without an owner (''), such as those of the command line, can be changed by anybody on a person's own machine.
    On a shared server only the operator can change them, on the command line or as a program with the token.
    """
    return owner == visitor if owner else not is_shared()


def why_not(what: str, owner: str) -> str:
    """A sentence that says why somebody may not change something. `what` names the run or sweep."""
    if owner:
        return f"{what} was started in another browser; only there can it be changed."
    return (
        f"{what} was started by nobody who visits this page; on a shared server only whoever runs it can change it, by "
        "the command line or as a program with the server's token."
    )
