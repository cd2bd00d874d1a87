"""The command `lora-playground`, also `python -m lora_playground`: `serve` opens the app, the rest needs no page."""

import sys


def main() -> int:
    """Runs one command; returns the exit status."""
    if sys.argv[1:2] == ["serve"]:
        from lora_playground.launch import main as serve

        return serve(sys.argv[2:])
    from lora_playground.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
