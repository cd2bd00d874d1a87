"""Downloads files from the Hugging Face hub into its usual cache, with progress; a broken download is continued.

The token comes from the environment alone (HF_TOKEN), and HF_ENDPOINT is honoured. Only the chosen files are
downloaded. It knows no model, no dataset and no torch.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from lora_playground.errors import DataError, ModelError, PlaygroundError

LARGE = 2**20
"""Files of at least this many bytes are continued after a broken download; smaller ones are downloaded again."""
TRIES = 5
PATIENCE = 30.0
"""Seconds without data after which a connection is closed and opened again."""

Progress = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all). It may raise to stop the download, which can be continued later."""

_ID = re.compile(r"[A-Za-z0-9_](?:[\w.-]*[\w])?/[A-Za-z0-9_][\w.-]*", re.ASCII)
_ERRORS: dict[str, type[PlaygroundError]] = {"model": ModelError, "dataset": DataError}


def is_id(text: str) -> bool:
    """Whether a text looks like a hub id, 'owner/name'."""
    return bool(_ID.fullmatch(text)) and ".." not in text and len(text) <= 200


def cache() -> Path:
    """The folder of the hub's local cache, as huggingface_hub finds it."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def fetch(
    repo: str,
    choose: Callable[[dict[str, int]], Sequence[str]],
    kind: Literal["model", "dataset"] = "model",
    revision: str | None = None,
    progress: Progress | None = None,
    anonymous: bool = False,
) -> Path:
    """Downloads the chosen files of a repository and returns the folder that holds them.

    Args:
        repo: its id.
        choose: {name: bytes} of all files → names of those to download; may raise.
        revision: a branch or commit; None for the main branch.
        anonymous: whether to send no token, for requests of strangers.

    Raises:
        ModelError or DataError, by `kind`: the repository is gated, missing or cannot be reached, or the disk is full.
        Also whatever `choose` and `progress` raise.
    """
    from huggingface_hub import HfApi, snapshot_download

    token: str | bool = False if anonymous else os.environ.get("HF_TOKEN") or False
    endpoint = os.environ.get("HF_ENDPOINT") or None
    failed = _ERRORS[kind]
    try:
        api = HfApi(endpoint=endpoint, token=token)
        about: Any = api.repo_info(repo, repo_type=kind, revision=revision, files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in about.siblings or []}
        names = list(choose(sizes))
        _Prefetch(repo, kind, str(about.sha), endpoint, token, failed).all(
            {name: sizes[name] for name in names}, progress
        )
        return Path(
            snapshot_download(
                repo, repo_type=kind, revision=about.sha, cache_dir=str(cache()), token=token, endpoint=endpoint,
                allow_patterns=[glob.escape(name) for name in names],
            )
        )  # fmt: skip
    except PlaygroundError:
        raise
    except Exception as error:  # the client's errors, and those of the libraries below it, share no other base
        raise failed(_why(repo, kind, error, anonymous)) from error


def files(repo: str, kind: Literal["model", "dataset"] = "model", patience: float = 8.0) -> dict[str, int]:
    """{name: bytes} of all files of a repository, without fetching any.

    Raises:
        ModelError or DataError, by `kind`: as `fetch`, or no answer within `patience` seconds.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=os.environ.get("HF_TOKEN") or False)
        about: Any = api.repo_info(repo, repo_type=kind, files_metadata=True, timeout=patience)
    except Exception as error:  # as in `fetch`
        raise _ERRORS[kind](_why(repo, kind, error, anonymous=False)) from error
    return {one.rfilename: one.size or 0 for one in about.siblings or []}


def _why(repo: str, kind: str, error: Exception, anonymous: bool) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        if anonymous:
            return (
                f"{repo} is gated, and this page fetches without a login. Whoever runs this server can accept its "
                "terms on its hub page and fetch it with HF_TOKEN set: python -m lora_playground upload "
                f"{repo}. Or upload a file."
            )
        return (
            f"{repo} is gated: accept its licence on its hub page, then start the app with HF_TOKEN set to a token "
            f"that may read it. {kind.capitalize()}s that are not gated need no token."
        )
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return f"There is no {kind} {repo} on the hub, or it is private; check the spelling."
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    why = "HF_HUB_OFFLINE is set" if offline else f"the hub cannot be reached ({first_line(error)})"
    other = "'embedded' or a local folder" if kind == "model" else "a dataset of the list or a file"
    return f"{repo} is not on this disk and {why}. Choose {other}, or go online once to fetch it."


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters, without the token."""
    text = str(error).strip()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "(token)")
    lines = text.splitlines()
    return lines[0][:200] if lines else type(error).__name__


class _Prefetch:
    """Downloads large files into the cache under the names that huggingface_hub gives them, so that the library finds
    them there. By itself the library keeps nothing of a download that broke off.
    """

    def __init__(
        self, repo: str, kind: str, commit: str, endpoint: str | None, token: str | bool, failed: type[PlaygroundError]
    ) -> None:
        self.repo, self.kind, self.commit, self.endpoint, self.token, self.failed = (
            repo, kind, commit, endpoint, token, failed,
        )  # fmt: skip
        self.folder = cache() / f"{kind}s--{repo.replace('/', '--')}"

    def all(self, sizes: dict[str, int], progress: Progress | None) -> None:
        """Downloads the missing large files. Small files, left to the library, count as done at the end."""
        total, done = sum(sizes.values()), 0
        for name, size in sizes.items():
            if size >= LARGE and not (self.folder / "snapshots" / self.commit / name).exists():
                before = done
                self._one(name, partial(_told, progress, before, total))
            done += size
            if progress:
                progress(done, total)

    def _one(self, name: str, tell: Callable[[int], None]) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(self.repo, name, repo_type=self.kind, revision=self.commit, endpoint=self.endpoint)
        about = get_hf_file_metadata(url, token=self.token, endpoint=self.endpoint)
        if not about.etag or not about.size or not re.fullmatch(r"[\w.-]+", about.etag):
            return
        blob = self.folder / "blobs" / about.etag
        blob.parent.mkdir(parents=True, exist_ok=True)
        with open(blob.with_name(f"{about.etag}.part"), "ab") as part:
            fcntl.flock(part, fcntl.LOCK_EX)  # another process may be fetching the same file
            if blob.exists():
                Path(part.name).unlink(missing_ok=True)
                return
            free = shutil.disk_usage(blob.parent).free
            if free < about.size - part.tell() + LARGE:
                raise self.failed(
                    f"The disk is full: {self.repo} needs {about.size / 1e6:,.0f} MB for {name}, and "
                    f"{free / 1e6:,.0f} MB are free in {cache()}. Free some, or set HF_HOME to another disk."
                )
            self._stream(about.location, part, about.size, url, tell)
            part.flush()
            if len(about.etag) == 64 and _sha256(Path(part.name)) != about.etag:
                Path(part.name).unlink(missing_ok=True)
                raise self.failed(f"{name} of {self.repo} came damaged and was thrown away; fetch it again.")
            os.replace(part.name, blob)

    def _stream(self, location: str, part: Any, size: int, url: str, tell: Callable[[int], None]) -> None:
        """Appends the missing bytes. It tries again after every attempt that brought some, and raises after TRIES
        attempts that brought none."""
        headers = {"User-Agent": "lora-playground", "Accept-Encoding": "identity"}
        if isinstance(self.token, str) and urlparse(location).netloc == urlparse(url).netloc:
            headers["Authorization"] = f"Bearer {self.token}"
        left = TRIES
        while (have := part.tell()) < size:
            request = urllib.request.Request(location, headers=headers | {"Range": f"bytes={have}-"})
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                    if answer.status != 206:  # the server sends the whole file
                        part.truncate(0)
                        part.seek(0)
                    while block := answer.read(LARGE):
                        part.write(block)
                        tell(part.tell())
            except (OSError, http.client.HTTPException):
                if part.tell() <= have:
                    left -= 1
                    time.sleep(0.5)
                if left <= 0:
                    raise
                continue
            if part.tell() <= have:
                left -= 1
            if left <= 0:
                raise OSError(f"only {part.tell()} of {size} bytes came")
        if part.tell() > size:
            part.truncate(0)
            raise OSError(f"{part.tell()} bytes came where {size} were promised")


def _told(progress: Progress | None, before: int, total: int, here: int) -> None:
    if progress is not None:
        progress(before + here, total)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
