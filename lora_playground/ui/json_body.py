"""Reads JSON that a page sends to a plain route, and answers with JSON. It knows no route."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_LONGEST = 20_000
"""The most bytes of a request's body."""


async def json_object(request: Request) -> dict[str, Any] | Response:
    """The JSON object in a request's body, or an error response.

    Other content types than application/json are refused: browsers let pages of other sites send those without a
    preflight request.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return JSONResponse({"error": "This route takes JSON."}, 415)
    body = await request.body()
    try:
        value = json.loads(body) if len(body) <= _LONGEST else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else JSONResponse({"error": "The request is no JSON object."}, 400)


def json_answer(value: Any, status: int = 200) -> JSONResponse:
    """A value as a JSON response that browsers do not cache."""
    return JSONResponse(value, status, headers={"Cache-Control": "no-store"})
