"""Ports that nobody listens on."""

import socket

LOOPBACK = "127.0.0.1"


def free_port(address: str = LOOPBACK) -> int:
    """One of an address, until somebody takes it."""
    with socket.socket() as holder:
        holder.bind((address, 0))
        return int(holder.getsockname()[1])
