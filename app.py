"""Builds the app and launches it: `python app.py --help` says with which options. Also a Space's entry."""

import argparse
import os
import signal
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def main() -> int:
    """Launches the app and waits; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", metavar="DIR", help="where runs live (default: $LORA_PLAYGROUND_HOME)")
    parser.add_argument("--host", help="address to listen at; 0.0.0.0 for all (default: $GRADIO_SERVER_NAME)")
    parser.add_argument("--port", type=int, help="port to listen at (default: $GRADIO_SERVER_PORT, or 7860)")
    parser.add_argument("--slots", type=int, metavar="N", help="runs at once (default: what cores and GPUs allow)")
    given = parser.parse_args()

    from lora_playground.errors import PlaygroundError
    from lora_playground.ui.serve import Server

    try:
        server = Server(given.home, given.slots)
    except PlaygroundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # A polite end closes the queue: what runs stands as interrupted, and no process is left behind.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        server.launch(given.host, given.port)
    except OSError as error:
        server.close()
        print(f"error: the server cannot listen ({error}); give another --port", file=sys.stderr)
        return 1
    server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
