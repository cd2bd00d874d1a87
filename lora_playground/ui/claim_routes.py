"""The routes of claims, as JSON: claims of papers with what was measured here, and a visitor's own trials. No Gradio.

`GET /claims` lists the claims with verdicts and this visitor's trials; `?model=` chooses the base model of the trials.
`POST /claims` {name, model} starts a trial.
"""

from __future__ import annotations

import statistics
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_playground.claims import Claim, get_claim, list_claims, verdict
from lora_playground.claims.measured import measurement
from lora_playground.claims.schema import MEASURES, Figures
from lora_playground.claims.trials import Trials
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.machine.device import device
from lora_playground.models.catalogue import list_models
from lora_playground.ui.identity import Identity
from lora_playground.ui.json_body import json_answer, json_object
from lora_playground.ui.words import expected


class ClaimRoutes:
    """The routes. Thread-safe."""

    def __init__(self, trials: Trials, identity: Identity) -> None:
        self._trials, self._identity = trials, identity

    def routes(self) -> list[Route]:
        """The routes, for the web application."""
        return [Route("/claims", self._list), Route("/claims", self._begin, methods=["POST"])]

    def _list(self, request: Request) -> Response:
        visitor = self._identity.of_plain(request)
        if visitor is None:
            return Response(status_code=401)
        try:
            model = _model(request.query_params.get("model", ""))
            known = list_claims()
            claims = [described(one) | self._trials.states(visitor, one, model) for one in known]
            if model is not None:  # the minutes of a claim's file are the embedded model's
                times = self._trials.seconds(known, model, device().kind == "cuda")
                for one in claims:
                    one["time"] = expected(*times[one["name"]]) if one["name"] in times else "its time is not known yet"
        except PlaygroundError as failure:
            return json_answer({"error": str(failure)}, 400)
        models = [{"source": card.source, "label": card.label} for card in list_models()]
        return json_answer({"claims": claims, "models": models})

    async def _begin(self, request: Request) -> Response:
        visitor = self._identity.of_plain(request)
        if visitor is None:
            return Response(status_code=401)
        body = await json_object(request)
        if isinstance(body, Response):
            return body
        try:
            claim, model = get_claim(str(body.get("name", ""))), _model(str(body.get("model") or ""))
            if not claim.sides:
                raise ConfigError("claim", claim.name, "one with two sides to train; this one has none")
            return json_answer(await run_in_threadpool(self._trials.begin, visitor, claim, model))
        except PlaygroundError as failure:
            return json_answer({"error": str(failure)}, 400)


def described(claim: Claim) -> dict[str, Any]:
    """A claim with its stored measurement and verdict, for the page."""
    found, judged = measurement(claim.name), verdict(claim, measurement(claim.name))
    stored = (
        {key: [min(numbers), statistics.fmean(numbers), max(numbers)] for key, numbers in found.values.items()}
        if found
        else {}
    )
    return {
        "name": claim.name, "title": claim.title, "paper": claim.paper, "url": claim.url, "claim": claim.claim,
        "here": claim.here, "note": claim.note, "command": claim.command,
        "time": f"about {max(1, round(claim.minutes))} min",
        "measure": MEASURES[claim.measure], "percent": claim.measure != "validation_loss",
        "verdict": judged.verdict, "why": judged.why, "stored": stored, "seeds": len(found.seeds) if found else 0,
        "titles": {key: side.title for key, side in claim.sides.items()},
        "lines": _lines(claim, found.figures if found else {}),
    }  # fmt: skip


def _lines(claim: Claim, figures: dict[str, float]) -> dict[str, Any] | None:
    """The plot of a claim's figures: {lines: [{label, points: [[x, y], ...]}], x, y, slope, guide}; None without
    one."""
    asked = claim.test.lines if isinstance(claim.test, Figures) else None
    if asked is None or not figures:
        return None
    lines = []
    for start, label in asked.starts.items():
        found = {
            name.removeprefix(f"{start}_"): value for name, value in figures.items() if name.startswith(f"{start}_")
        }
        points = sorted([float(x), value] for x, value in found.items() if x.isdecimal())
        lines.append({"label": label, "points": points})
    return {"lines": lines} | asked.model_dump(exclude={"starts"})


def _model(source: str) -> str | None:
    """The base model of a trial, None for the embedded one. Raises ConfigError if it is not on this disk."""
    known = [card.source for card in list_models()]
    if source and source not in known:
        raise ConfigError("model", source, f"one of {', '.join(known)}")
    return None if source in ("", "embedded") else source
