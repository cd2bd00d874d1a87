"""Exports a run so that it can be repeated elsewhere: as a configuration, a command line, a script or a notebook.

It knows run folders, configs and variants; nothing of queues and forms. Only making a script imports torch.
"""

from lora_playground.reproduce.bundle import FORMATS, check, reproduce
from lora_playground.reproduce.command import command_line

__all__ = ["FORMATS", "check", "command_line", "reproduce"]
