"""A Ray cluster that asks for a token: runs go to its two nodes, strangers are told why not, nothing listens beyond."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
def test_runs_on_two_nodes_that_ask_for_a_token(tmp_path: Path) -> None:
    environment = os.environ | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.jobs.ray_with_token", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    without, wrong, unset = seen["refused"]
    assert "asks for its token, and no token was given" in without
    assert "asks for its token, and another token was given" in wrong
    assert "RAY_AUTH_TOKEN is not set" in unset
    assert seen["slots"] == 2 and seen["states"] == ["done", "done"] and seen["losses"] == [4, 4]
    assert seen["listening"] == ["127.0.0.1"], "nodes at 127.0.0.1 are reached from this machine alone"
