"""This machine in its network. Nothing is sent."""

from __future__ import annotations

import socket


def address_in_network() -> str:
    """The IPv4 address under which others in the network reach this machine, '' where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address kept for documentation: connecting only chooses an interface
            return str(probe.getsockname()[0])
        except OSError:
            return ""
