"""The wheel: in an environment and a folder that hold nothing of the checkout, it opens, trains and chats."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from pathlib import Path

import pytest

from lora_playground import __version__

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 240


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed `lora-playground`. The dependencies are this environment's, lent by a .pth file."""
    built, place = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("environment")
    source = tmp_path_factory.mktemp("source")  # building leaves files behind
    for name in ("lora_playground", "assets"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("requirements*.txt"), *map(ROOT.joinpath, ("pyproject.toml", "setup.py", "README.md"))):
        shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(built), str(source)], check=True, timeout=PATIENCE)
    venv.create(place, with_pip=False)
    folder = next(place.glob("lib/python*/site-packages"))
    subprocess.run(
        [*pip, "--python", str(place / "bin" / "python"), "install", "--no-deps", *map(str, built.glob("*.whl"))],
        check=True,
        timeout=PATIENCE,
    )
    (folder / "lent.pth").write_text(sysconfig.get_paths()["purelib"])
    return place / "bin" / "lora-playground"


def run(command: Path, folder: Path, *arguments: str) -> dict:
    done = subprocess.run(
        [command, *arguments, "--home", str(folder / "home"), "--json"],
        cwd=folder, env=_environment(), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}} | {
        "HF_HUB_OFFLINE": "1"
    }


def test_it_trains_and_chats_in_an_empty_folder(command: Path, tmp_path: Path) -> None:
    version = subprocess.run([command, "--version"], capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE)
    assert version.stdout.strip().endswith(__version__)
    trained = run(command, tmp_path, "train", "--steps", "3", "--dataset", "pirate")
    assert trained["state"] == "done"
    answers = run(command, tmp_path, "chat", trained["run"], "--prompt", "Where is the sea?", "--max-new-tokens", "4")
    assert answers


@pytest.mark.parametrize("name", ["lessons", "claims", "datasets"])
def test_what_ships_is_listed(name: str, command: Path, tmp_path: Path) -> None:
    listed = {"lessons": "lessons/*.toml", "claims": "claims/*.toml", "datasets": "datasets/[a-z]*"}[name]
    assert len(run(command, tmp_path, name)) == len(list((ROOT / "assets").glob(listed)))


def test_serve_opens_the_page(command: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [command, "serve", "--home", str(tmp_path / "home"), "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                    page = answer.read().decode()
                break
            except OSError:
                assert server.poll() is None, server.stderr.read().decode()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert "LoRA Playground" in page
    finally:
        server.terminate()
        server.wait(30)
