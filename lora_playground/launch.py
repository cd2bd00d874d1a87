"""Opens the app from the command line: its options, and an orderly end."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import sys
from collections.abc import Mapping, Sequence

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def main(arguments: Sequence[str] | None = None) -> int:
    """Launches the app and waits; returns the exit status: 0, or 1 for an error in plain words."""
    parser = argparse.ArgumentParser(description="LoRA Playground: open the app in a browser.")
    parser.add_argument("--home", metavar="DIR", help="where runs live (default: $LORA_PLAYGROUND_HOME)")
    parser.add_argument("--host", help="address to listen at; 0.0.0.0 for all (default: $GRADIO_SERVER_NAME)")
    parser.add_argument("--port", type=int, help="port to listen at (default: $GRADIO_SERVER_PORT, or 7860)")
    parser.add_argument("--slots", type=int, metavar="N", help="runs at once (default: what cores and GPUs allow)")
    parser.add_argument(
        "--root-path",
        metavar="PATH",
        help="where a proxy serves the app, such as /lora (default: $GRADIO_ROOT_PATH; "
        "on a JupyterHub the proxy's own)",
    )
    parser.add_argument("--track", metavar="NAME", help="send every run's curves to tensorboard, trackio or wandb")
    parser.add_argument(
        "--workshop", action="store_true", help="listen to the network, and print the address to join as a QR code"
    )
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints as MCP tools, at /gradio_api/mcp/")
    parser.add_argument("--ray", metavar="ADDRESS", help="train on a Ray cluster: address or auto (docs/cluster.md)")
    parser.add_argument(
        "--shared", action="store_true",
        help="many people use it through a proxy, although it listens to this machine only",
    )  # fmt: skip
    parser.add_argument(
        "--models", metavar="DIR", action="append", default=[], help="a folder with base models, offered in the form"
    )
    parser.add_argument(
        "--largest-download", type=float, metavar="GB",
        help="the largest model that visitors of a shared server may fetch (default: 8)",
    )  # fmt: skip
    parser.add_argument(
        "--limits", metavar="NAME=N,...", default="",
        help="limits for each person: running, waiting, runs, gigabytes, uploads, chats; 0 for no limit (default: few "
        "where the server listens beyond this machine)",
    )  # fmt: skip
    args = parser.parse_args(arguments)

    from lora_playground.runs import home_at

    if args.root_path is None and not os.environ.get("GRADIO_ROOT_PATH"):
        args.root_path, args.port = at_hub(os.environ, args.port)

    with home_at(args.home):
        return _serve(args)


def _serve(args: argparse.Namespace) -> int:
    from lora_playground.errors import PlaygroundError
    from lora_playground.jobs import tracking
    from lora_playground.jobs.limits import ALONE, SHARED, Limits
    from lora_playground.models.sources import share
    from lora_playground.ui.serve import Server

    if args.workshop:
        args.host = args.host or "0.0.0.0"
    shared = args.shared or not is_loopback(args.host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1")
    try:
        tracking.choose(args.track)
        share(args.models, shared, args.largest_download)
        limits = Limits.parse(args.limits, SHARED if shared else ALONE)
        server = Server(args.home, args.slots, limits, args.ray)
    except PlaygroundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # SIGTERM ends the server like Ctrl+C: running jobs become interrupted, and no process is left behind.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        server.launch(args.host, args.port, root_path=args.root_path, mcp=args.mcp)
    except OSError as error:
        server.close()
        print(f"error: the server cannot listen ({error}); give another --port", file=sys.stderr)
        return 1
    except PlaygroundError as error:
        server.close()
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.workshop:
        print(_invitation(server.port))
    server.wait()
    return 0


def at_hub(environment: Mapping[str, str], port: int | None) -> tuple[str | None, int | None]:
    """(root path, port) on a JupyterHub, where jupyter-server-proxy serves a port below the person's own path.

    The path contains the port, so the port must be known before the server starts. Elsewhere: (None, `port`).
    """
    prefix = environment.get("JUPYTERHUB_SERVICE_PREFIX", "").rstrip("/")
    if not prefix:
        return None, port
    chosen = port or int(environment.get("GRADIO_SERVER_PORT") or 7860)
    return f"{prefix}/proxy/{chosen}", chosen


def _invitation(port: int) -> str:
    """The teacher's instructions for the terminal: where the class page is, and the class's address as text and as a QR
    code."""
    import io

    import segno

    from lora_playground.machine.network import address_in_network

    address = f"http://{address_in_network() or 'localhost'}:{port}"
    picture = io.StringIO()
    segno.make(address, error="m").terminal(picture, compact=True)
    return (
        f"{picture.getvalue()}\nEveryone: {address}\n"
        f"The teacher, on this machine: http://localhost:{port}/class (opens a class, with a code to project)"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at that address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
