"""Builds the app and launches it: `python app.py --help` says with which options. Also a Space's entry."""

import sys

from lora_playground.launch import main

if __name__ == "__main__":
    sys.exit(main())
