"""`python -m lora_playground`: the command line."""

import sys

from lora_playground.cli import main

if __name__ == "__main__":
    sys.exit(main())
