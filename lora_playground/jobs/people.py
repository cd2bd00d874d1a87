"""The names that people on one server have given themselves. It knows identities and names only."""

from __future__ import annotations

import threading
from pathlib import Path

from lora_playground.errors import JobError
from lora_playground.runs.files import read_json, write_json

LONGEST = 40
"""Most characters of a name."""
MOST = 10_000
"""How many people's names are stored."""


class People:
    """The names stored in `HOME/people.json`. Thread-safe."""

    def __init__(self, home: Path) -> None:
        self._path = home / "people.json"
        self._lock = threading.Lock()
        found = read_json(self._path)
        pairs = found.items() if isinstance(found, dict) else ()
        self._names = {str(owner): str(name)[:LONGEST] for owner, name in pairs}

    def name(self, owner: str) -> str:
        """A person's name: the one they gave, else that of their login, else ''."""
        return self._names.get(owner) or (owner.removeprefix("user:") if owner.startswith("user:") else "")

    def rename(self, owner: str, name: str) -> str:
        """Sets a person's name, or removes it ('' ); returns it as stored. Raises JobError if it is not allowed,
        RunError if it cannot be written."""
        if not owner:
            raise JobError("A name is kept with a cookie, which this browser has not sent; allow it and load the page.")
        plain = " ".join("".join(char for char in name if char.isprintable()).split())[:LONGEST]
        with self._lock:
            names = {**self._names, owner: plain} if plain else {k: v for k, v in self._names.items() if k != owner}
            if len(names) > MOST:
                raise JobError(f"{MOST} people have a name here, which is all that is kept.")
            write_json(self._path, names)
            self._names = names
        return plain
