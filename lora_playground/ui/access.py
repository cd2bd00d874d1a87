"""Decides whether a program may use the endpoints, and who owns the runs that it starts.

With LORA_PLAYGROUND_TOKEN set, every program has to send that token. Without it, only programs on this machine are
allowed: the connection, the requested host and a browser's origin must all be this machine, so that neither a proxy nor
a web page from elsewhere is taken for a local program.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from lora_playground.errors import AccessError
from lora_playground.ui.identity import Identity

VARIABLE = "LORA_PLAYGROUND_TOKEN"
PROGRAM = "program"
"""Owner of the runs of programs; if there is a login, its name is put before it."""
_HOW = "send it as the header 'Authorization: Bearer TOKEN'"
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


class Access:
    """Checks requests of programs.

    Args:
        identity: identifies visitors. token: that programs must send; None takes LORA_PLAYGROUND_TOKEN, '' is no token.
    """

    def __init__(self, identity: Identity, token: str | None = None) -> None:
        self._identity = identity
        self._token = (os.environ.get(VARIABLE, "") if token is None else token).strip()

    def who(self, request: Any) -> str:
        """The owner of runs that a request starts. Raises AccessError if it is not allowed.

        Args:
            request: Gradio's or Starlette's; None for a call within this process.
        """
        if request is None:
            return PROGRAM
        client = getattr(request.client, "host", "") if request.client else ""
        if reason := self.refusal(request.headers, client):
            raise AccessError(reason)
        return self._identity.of(request) or PROGRAM

    def refusal(self, headers: Mapping[str, str], client: str) -> str:
        """A sentence that says why a request is refused; '' if it is not."""
        if self._token:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not given.strip():
                return f"This server asks programs for its token; {_HOW}."
            if hmac.compare_digest(given.strip().encode(), self._token.encode()):
                return ""
            return f"This is not the server's token. Ask whoever started it for the one in {VARIABLE}, and {_HOW}."
        if _local(headers, client):
            return ""
        return (
            "Programs on other machines may ask only a server that has a token: start it with "
            f"{VARIABLE} set, and {_HOW}."
        )


def _local(headers: Mapping[str, str], client: str) -> bool:
    """Whether a request comes directly from this machine, and not from a web page of another host."""
    if not _loopback(client) or any(name in headers for name in _FORWARDED):
        return False
    host = headers.get("host", "")
    if not _loopback(urlsplit(f"//{host}").hostname or ""):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == host


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ProgramsMiddleware:
    """ASGI middleware: answers 401 to MCP requests that are not allowed, before they get a list of tools."""

    def __init__(self, app: Any, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and "/gradio_api/mcp" in scope.get("path", ""):
            client = (scope.get("client") or ("",))[0]
            if reason := self._access.refusal(Headers(scope=scope), client):
                headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": json.dumps({"error": reason}).encode()})
                return
        await self._app(scope, receive, send)
