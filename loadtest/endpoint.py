"""The server under load: its address, how it is reached, and the administrator's key."""

import socket
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from rfserve.clients.connection import ADMIN_HEADER, CHANNEL_ARGUMENTS
from rfserve.loadtest.errors import LoadTestError

CONNECT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """gRPC at `url` (`host:port`). `admin_key` opens the statistics of a closed server; certificates are PEM files."""

    url: str
    admin_key: str | None = None
    tls: bool = False
    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None

    def __post_init__(self) -> None:
        host, _, port = self._place.rpartition(":")
        if not host or "/" in host or not port.isdigit():
            raise LoadTestError(f"url: got {self.url!r}; expected host:port of the gRPC endpoint, as 127.0.0.1:8001")
        if (self.private_key is None) != (self.certificate_chain is None):
            raise LoadTestError("got one of private_key and certificate_chain; expected both, or none")

    def channel(self) -> Any:
        """A new connection, with the same options as the client's."""
        target = f"dns:///{self._place}"
        # Channels with equal arguments would share one connection, also with a channel that was closed.
        options = [*CHANNEL_ARGUMENTS, ("grpc.use_local_subchannel_pool", 1)]
        if not self.is_encrypted:
            return grpc.insecure_channel(target, options=options)
        root, key, chain = map(_content, (self.root_certificates, self.private_key, self.certificate_chain))
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(root, key, chain), options=options)

    def look(self) -> None:
        """`LoadTestError` when nobody listens there, or its certificate is not trusted."""
        channel = self.channel()
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_S)
        except grpc.FutureTimeoutError as error:
            raise LoadTestError(
                f"no connection to {self.url} within {CONNECT_S:g} s; expected a server's gRPC endpoint, and the same "
                "encryption at both ends"
            ) from error
        finally:
            channel.close()

    def addresses(self) -> frozenset[str]:
        """Every address that its name has at this moment; `OSError` when it has none."""
        host, _, port = self._place.rpartition(":")
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        return frozenset(str(place[0]) for *_, place in found)

    @property
    def _place(self) -> str:
        return self.url.removeprefix("dns:///")

    @property
    def is_encrypted(self) -> bool:
        """Whether it is reached over TLS."""
        return self.tls or self.root_certificates is not None or self.private_key is not None

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What administrative calls carry."""
        return [] if self.admin_key is None else [(ADMIN_HEADER, self.admin_key)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, without the administrator's key, which load generators need not know."""
        return asdict(self) | {"admin_key": None}


def _content(file: str | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise LoadTestError(f"cannot read {file}: {error.strerror}; expected a PEM file") from error


def key_of(file: Path) -> str:
    """The administrator's key that a file holds."""
    try:
        key = file.read_text().strip()
    except OSError as error:
        raise LoadTestError(f"cannot read {file}: {error.strerror}; expected the server's --admin-key-file") from error
    if not key:
        raise LoadTestError(f"{file} is empty; expected the server's --admin-key-file")
    return key


def are_several(addresses: Collection[str]) -> bool:
    """Whether they are of more than one server, which may have one of IPv4 and one of IPv6."""
    long = sum(":" in a for a in addresses)
    return max(long, len(addresses) - long) > 1
