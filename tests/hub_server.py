"""A hub on 127.0.0.1 with the few routes that a download needs, so that tests download as people do, by a hub id.

It serves folders as repositories, checks tokens for gated ones, can break off in the middle of a file, and records the
requests.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

TOKEN = "hf_of_the_test"


@dataclass
class Hub:
    """What the hub serves, and the requests it got.

    Attributes:
        repos: 'models/name' or 'datasets/name' (with '@revision' for another branch than main) → folder.
        gated: ids whose files need TOKEN.
        breaks: file name → for each of its next downloads the number of bytes after which the connection is cut; later
            downloads are complete.
        asked: (method, path, Range header or '', token or '') of each request.
    """

    repos: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serves the hub within the block, at `hub.url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlparse(self.path).path).strip("/")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.asked.append((self.command, path, self.headers.get("Range", ""), token))
        parts = path.split("/")
        if parts[0] == "api":
            kind, repo, rest = parts[1], "/".join(parts[2:4]), parts[4:]
            revision = "/".join(rest[1:]) if rest and rest[0] in ("revision", "tree") else "main"
            self.about(kind, repo, revision, tree=bool(rest) and rest[0] == "tree")
            return
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if kind == "datasets" else parts
        self.file(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]), token, body)

    def folder(self, kind: str, repo: str, revision: str) -> Path | None:
        """The folder of a repository at a branch, or at the commit that stands for it."""
        for name, folder in self.hub.repos.items():
            known, _, branch = name.partition("@")
            if known == f"{kind}/{repo}" and revision in (branch or "main", _commit(name)):
                return folder
        return None

    def about(self, kind: str, repo: str, revision: str, tree: bool) -> None:
        folder = self.folder(kind, repo, revision)
        if folder is None:
            there = any(name.partition("@")[0] == f"{kind}/{repo}" for name in self.hub.repos)
            self.say(404, {"error": "not found"}, {"X-Error-Code": "RevisionNotFound" if there else "RepoNotFound"})
            return
        files = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            large = {"size": path.stat().st_size, "sha256": _sha(path), "pointerSize": 130}
            one = {
                "size": path.stat().st_size,
                "oid": _sha(path)[:40],
                "blobId": _sha(path)[:40],
                "lfs": {**large, "oid": _sha(path)},
            }
            name = path.relative_to(folder).as_posix()
            files.append(one | ({"type": "file", "path": name} if tree else {"rfilename": name}))
        name = next(name for name, place in self.hub.repos.items() if place == folder)
        sha = _commit(name)
        self.say(200, files if tree else {"id": repo, "sha": sha, "siblings": files, "private": False})

    def file(self, kind: str, repo: str, revision: str, name: str, token: str, body: bool) -> None:
        folder = self.folder(kind, repo, revision)
        if folder is None or not (folder / name).is_file():
            self.say(404, {}, {"X-Error-Code": "EntryNotFound"}, body)
            return
        if repo in self.hub.gated and token != TOKEN:
            self.say(403 if token else 401, {}, {"X-Error-Code": "GatedRepo"}, body)
            return
        data = (folder / name).read_bytes()
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", revision)
        self.send_header("ETag", f'"{_sha(folder / name)}"')
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        cuts = self.hub.breaks.get(name, [])
        if cuts:
            self.wfile.write(data[start : start + cuts.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def say(self, status: int, value: object, headers: dict[str, str] | None = None, body: bool = True) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        for name, content in {
            "Content-Type": "application/json",
            "Content-Length": str(len(text)),
            **(headers or {}),
        }.items():
            self.send_header(name, content)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(text)


def _commit(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
