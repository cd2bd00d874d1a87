"""Under a sub-path, behind nginx with the configuration that deploy/nginx.conf gives, and behind jupyter-server-proxy
as JupyterHub has it: train, live view, chat."""

import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Server, Visitor
from tests.e2e.steps import answers, points, set_number, status, until
from tests.waiting import wait_until


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[str]:
    """The address of a server behind the proxy."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("no nginx: install it (Debian: apt-get install nginx-light)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(tmp_path / "home", "--root-path", "/lora")
    given = (ROOT / "deploy" / "nginx.conf").read_text()
    site = given.replace("listen 8080", f"listen 127.0.0.1:{port}").replace(
        "127.0.0.1:7860", f"127.0.0.1:{server.port}"
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/errors; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n{site}\n}}"
    )
    process = subprocess.Popen([nginx, "-c", str(tmp_path / "nginx.conf")])
    wait_until(lambda: answers_at(f"http://127.0.0.1:{port}/lora/"), "the proxy to answer")
    yield f"http://127.0.0.1:{port}/lora"
    process.terminate()
    process.wait(30)
    server.close()


def answers_at(address: str) -> bool:
    """Whether a page comes from there."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server behind a person's Jupyter server, started under /user/ann/ as JupyterHub starts it."""
    program = os.environ.get("LORA_PLAYGROUND_JUPYTER") or shutil.which("jupyter-server")
    if program is None:
        pytest.skip("no jupyter-server with jupyter-server-proxy: install them, or name it in LORA_PLAYGROUND_JUPYTER")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As in a terminal of the hub: the app finds the path for itself.
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
    server = Server(tmp_path / "home")
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX")
    options = ["--ip=127.0.0.1", f"--port={port}", "--no-browser", "--allow-root", "--ServerApp.base_url=/user/ann/",
               "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}"]  # fmt: skip
    with open(tmp_path / "jupyter.log", "wb") as log:
        process = subprocess.Popen([program, *options], stdout=log, stderr=log, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}/user/ann/proxy/{server.port}"
    wait_until(lambda: answers_at(f"{address}/"), "the proxy to answer")
    yield address
    process.terminate()
    process.wait(30)
    server.close()


@pytest.mark.parametrize("place", ["proxied", "jupyter"])
def test_train_and_chat_under_a_sub_path(browser, place: str, request: pytest.FixtureRequest) -> None:
    visitor = Visitor(browser)
    page = visitor.context.new_page()
    page.goto(request.getfixturevalue(place) + "/")
    page.locator("#lp-train").wait_for()
    set_number(page, "lp-steps-number", "6")
    page.locator("#lp-train").click()
    until(page, lambda: len(points(page, "lp-loss")) > 1, "the loss, which comes by the live route")
    until(page, lambda: "adapter on disk" in status(page), "the result")
    page.locator("#lp-way-chat").click()
    page.locator("#lp-input textarea").fill("Where is the sea?")
    page.locator("#lp-input textarea").press("Control+Enter")
    until(page, lambda: len(answers(page)) == 2 and all(answers(page)), "two answers")
    visitor.check()
    visitor.context.close()
