"""Which programs may ask: those with the token, or, where there is none, those on this machine alone."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from lora_playground.ui.access import Access, ProgramsMiddleware
from lora_playground.ui.identity import Identity

HERE = {"host": "127.0.0.1:7860"}


@pytest.mark.parametrize(
    ("headers", "client", "allowed"),
    [
        (HERE, "127.0.0.1", True),
        ({"host": "localhost:7860"}, "::1", True),
        (HERE | {"origin": "http://127.0.0.1:7860"}, "127.0.0.1", True),
        (HERE, "192.168.1.7", False),
        (HERE, "", False),
        ({"host": "lab.example:7860"}, "127.0.0.1", False),  # a name that somebody has pointed at this machine
        (HERE | {"x-forwarded-for": "127.0.0.1"}, "127.0.0.1", False),  # a proxy, whatever it says
        (HERE | {"origin": "https://evil.example"}, "127.0.0.1", False),  # a page of somebody else's
        (HERE | {"origin": "null"}, "127.0.0.1", False),
        (HERE | {"authorization": "Bearer guess"}, "10.0.0.9", False),
    ],
)
def test_without_a_token_only_programs_on_this_machine_may_ask(tmp_path, headers, client, allowed):
    said = Access(Identity(tmp_path), "").refusal(headers, client)
    assert (said == "") is allowed
    if not allowed:
        assert "LORA_PLAYGROUND_TOKEN" in said and "Bearer" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("Bearer right", ""),
        ("bearer  right ", ""),
        ("Bearer wrong", "not the server's token"),
        ("Bearer rightt", "not the server's token"),
        ("Bearer richtig ä", "not the server's token"),
        ("Basic right", "asks programs for its token"),
        ("Bearer", "asks programs for its token"),
        ("", "asks programs for its token"),
    ],
)
def test_with_a_token_everybody_sends_it(tmp_path, given, said):
    access = Access(Identity(tmp_path), "right")
    for client in ("127.0.0.1", "192.168.1.7"):
        told = access.refusal(HERE | ({"authorization": given} if given else {}), client)
        assert said in told and bool(told) is bool(said) and "right" not in told.split("Ask")[0]


def test_mcp_is_closed_before_anything_is_listed_and_the_page_stays_open(tmp_path):
    app = Starlette(routes=[Route("/{rest:path}", lambda request: PlainTextResponse("in"), methods=["GET", "POST"])])
    client = TestClient(ProgramsMiddleware(app, Access(Identity(tmp_path), "right")))
    refused = client.post("/gradio_api/mcp/")
    assert refused.status_code == 401 and "token" in refused.json()["error"]
    assert client.get("/lora/gradio_api/mcp/schema").status_code == 401
    assert client.post("/gradio_api/mcp/", headers={"Authorization": "Bearer right"}).text == "in"
    assert client.get("/").text == "in"
