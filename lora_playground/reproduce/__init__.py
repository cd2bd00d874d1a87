"""A run as something to do again elsewhere: its configuration, a command line, a script or a notebook.

It knows run folders, configs and variants; nothing of queues and forms. Torch is imported where a script is made.
"""

from lora_playground.reproduce.bundle import FORMATS, check, reproduce
from lora_playground.reproduce.command import command_line

__all__ = ["FORMATS", "check", "command_line", "reproduce"]
