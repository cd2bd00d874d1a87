"""Identifies visitors by a signed cookie, which the server sets at the first visit. It knows no run.

The signature keeps a visitor from taking somebody else's identity. Gradio's session hash is no identity, since the
browser chooses it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

import gradio as gr
from itsdangerous import BadSignature, Signer
from starlette.requests import Request

from lora_playground.runs.files import writing

COOKIE = "lora_playground_visitor"
PAGES = ("/", "/class", "/join")
"""Paths at which a visitor without a cookie gets one."""
_YEAR = 365 * 24 * 3600


class Identity:
    """Makes and checks visitors' cookies, with a secret that is stored in the home folder."""

    def __init__(self, home: Path) -> None:
        self._secret = _secret(home / "visitors.secret")
        self._signer = Signer(self._secret, salt=COOKIE, digest_method=hashlib.sha256)

    def new(self) -> str:
        """A new cookie value: a random name and its signature."""
        return self._signer.sign(secrets.token_hex(8)).decode()

    def read(self, value: str | None) -> str:
        """The visitor's name in a cookie value; '' if it is missing or not signed by this server."""
        try:
            return self._signer.unsign(value or "").decode()
        except (BadSignature, UnicodeError):
            # Cookies may also be signed by the first 32 hexadecimal digits of an HMAC, as older versions did.
            name, _, signature = (value or "").partition(".")
            known = hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()[:32]
            return name if hmac.compare_digest(signature.encode(), known.encode()) else ""

    def of(self, request: gr.Request | None) -> str:
        """The visitor who sent a request: the name of their login if there is one, else that in the cookie."""
        if request is None:
            return ""
        if getattr(request, "username", None):
            return f"user:{request.username}"
        return self.read(dict(request.cookies or {}).get(COOKIE))

    def of_plain(self, request: Request) -> str | None:
        """The visitor who sent a plain request, see `of`; None if a login is required and missing."""
        login = _login(request)
        return login if login is None else f"user:{login}" if login else self.read(request.cookies.get(COOKIE))


def _login(request: Request) -> str | None:
    """The login's name in a request to Gradio's web application; '' if none is required, None if it is missing."""
    app: Any = request.app
    if getattr(app, "auth", None) is None:
        return ""
    tokens = (request.cookies.get(f"access-token{kind}-{app.cookie_id}") for kind in ("", "-unsecure"))
    return next((app.tokens[token] for token in tokens if token in app.tokens), None)


def _secret(path: Path) -> bytes:
    try:
        kept = path.read_bytes()
        if len(kept) >= 32:
            return kept
    except FileNotFoundError:
        pass
    fresh = secrets.token_bytes(32)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, fresh)
        finally:
            os.close(handle)
    return fresh


class VisitorMiddleware:
    """ASGI middleware: gives every visitor of the page without a valid cookie a new one."""

    def __init__(self, app: Any, identity: Identity) -> None:
        self._app, self._identity = app, identity

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope.get("path") not in PAGES or self._identity.read(_cookie(scope)):
            await self._app(scope, receive, send)
            return
        value = f"{COOKIE}={self._identity.new()}; Path=/; Max-Age={_YEAR}; HttpOnly; {_sites()}"

        async def with_cookie(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"set-cookie", value.encode())]
            await send(message)

        await self._app(scope, receive, with_cookie)


def _sites() -> str:
    """The cookie's SameSite attribute: a Hugging Face Space is shown inside a page of another site, so it needs
    'none'."""
    return "SameSite=None; Secure; Partitioned" if os.environ.get("SPACE_ID") else "SameSite=Lax"


def _cookie(scope: dict[str, Any]) -> str | None:
    for name, value in scope.get("headers", []):
        if name == b"cookie":
            try:
                morsel = SimpleCookie(value.decode("latin-1")).get(COOKIE)
            except CookieError:
                return None
            return morsel.value if morsel else None
    return None
