"""Who may change a run or a sweep: stop it, go on with it, give it a name, delete it. It knows no queue."""

from __future__ import annotations

from lora_playground.models.sources import is_shared


def may_change(owner: str, visitor: str) -> bool:
    """Whether a visitor of the page may change what `owner` has started.

    What nobody here has started ('', such as a run of the command line) is anybody's on one's own machine. On a shared
    server it is the operator's, who changes it by the command line or as a program with the token.
    """
    return owner == visitor if owner else not is_shared()


def why_not(what: str, owner: str) -> str:
    """Why somebody may not, in a sentence. `what` names the run or the sweep."""
    if owner:
        return f"{what} was started in another browser; only there can it be changed."
    return (
        f"{what} was started by nobody who visits this page; on a shared server only whoever runs it can change it, by "
        "the command line or as a program with the server's token."
    )
