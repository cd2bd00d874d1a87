"""This machine's address in its network. Nothing is sent."""

from __future__ import annotations

import socket


def address_in_network() -> str:
    """The IPv4 address by which other machines in the network reach this one; '' if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation; connecting UDP only chooses an interface
            return str(probe.getsockname()[0])
        except OSError:
            return ""
