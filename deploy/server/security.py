"""Who may talk to the server, and who may change it: TLS on gRPC, and a key for the administrative APIs.

Triton has TLS for gRPC only. With TLS asked for, HTTP and metrics therefore listen on loopback, whatever the address.

The administrative APIs load and unload models, map shared memory (also that between Triton and its backends) and name
files to write logs and traces to. They ask for a key; without one of the administrator's, it is random and stays in the
launcher. Inference, health and metadata stay open, and so do statistics: they only read what the metrics endpoint
shows without a key as well, and load tests read the batch sizes there.

tritonserver takes the key as an argument and in no other way (2.51): whoever may list this host's processes with their
arguments reads it. A container, or /proc mounted with hidepid, bounds that.
"""

import ipaddress
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rfserve.server.errors import SecurityError

LOOPBACK = "127.0.0.1"
SHARED_MEMORY = "shared-memory"
ADMINISTRATIVE = ("model-repository", "model-config", SHARED_MEMORY, "trace", "logging")
HEADER = "admin-key"
# A colon and a comma divide Triton's option; blanks at the ends do not survive a header.
KEY = re.compile(r"[!-+\--9;-~]{16,4096}")
EXPIRY_NOTE = timedelta(days=14)


@dataclass(frozen=True, kw_only=True)
class Security:
    """PEM files turn TLS on; `client_ca` then asks every client for a certificate that it signed.

    The administrative APIs ask for `admin_key`. `open_admin` opens them all to whoever reaches the server, and
    `open_shared_memory` that one; both only on loopback. `SecurityError` when something of this cannot work: Triton
    itself would name a bad certificate "Socket already in use".
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    admin_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    open_admin: bool = False
    open_shared_memory: bool = False
    certificate_expires: datetime | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if KEY.fullmatch(self.admin_key) is None:
            raise SecurityError(
                f"the administrator's key: got {len(self.admin_key)} characters; expected 16 to 4096 of printable "
                "ASCII, without blanks, commas and colons, as `openssl rand -hex 32` writes"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SecurityError("got one of --tls-cert and --tls-key; expected both, or none")
        if self.client_ca is not None and self.tls_cert is None:
            raise SecurityError("got --client-ca without --tls-cert and --tls-key: only TLS asks for certificates")
        if self.tls_cert is not None and self.tls_key is not None:
            object.__setattr__(self, "certificate_expires", _checked(self.tls_cert, self.tls_key, self.client_ca))

    @property
    def tls(self) -> bool:
        """Whether gRPC is encrypted."""
        return self.tls_cert is not None

    def plain_address(self, address: str) -> str:
        """Where the endpoints without TLS listen: HTTP and metrics."""
        return LOOPBACK if self.tls else address

    def check_address(self, address: str) -> None:
        """`SecurityError` when what is open would be open to other machines."""
        option = "--open-admin" if self.open_admin else "--open-shared-memory" if self.open_shared_memory else None
        if option is not None and not is_loopback(address):
            raise SecurityError(f"{option} is for loopback, got --address {address}; give --admin-key-file instead")

    def notes(self, address: str) -> list[str]:
        """What works, and should be known."""
        notes = []
        if self.certificate_expires is not None and self.certificate_expires - datetime.now(UTC) < EXPIRY_NOTE:
            notes.append(
                f"{self.tls_cert} is valid until {self.certificate_expires:%Y-%m-%d %H:%M} UTC only; renew it, and "
                "start the server again"
            )
        if not self.tls and not is_loopback(address):
            notes.append(
                f"{address} is served without TLS: recordings, fixes and the administrator's key can be read on the "
                "way; give --tls-cert and --tls-key"
            )
        return notes

    def arguments(self, address: str) -> list[str]:
        """What tritonserver is started with, to listen on `address`."""
        restricted = [a for a in ADMINISTRATIVE if not (self.open_shared_memory and a == SHARED_MEMORY)]
        arguments = []
        if not self.open_admin:
            arguments.append(f"--grpc-restricted-protocol={_restriction(restricted, self.admin_key)}")
            # A chunked body of some megabytes ends tritonserver 2.51 (one stack slot for each chunk): nobody from
            # elsewhere gets as far as that without the key.
            over_http = restricted if is_loopback(self.plain_address(address)) else [*restricted, "inference"]
            arguments.append(f"--http-restricted-api={_restriction(over_http, self.admin_key)}")
        if self.tls_cert is not None and self.tls_key is not None:
            arguments += [
                f"--grpc-use-ssl{'-mutual' if self.client_ca else ''}=true",
                f"--grpc-server-cert={self.tls_cert.resolve()}",
                f"--grpc-server-key={self.tls_key.resolve()}",
            ]
        if self.client_ca is not None:
            arguments.append(f"--grpc-root-cert={self.client_ca.resolve()}")
        return arguments


def admin_key_of(file: Path) -> str:
    """The key in a file of the administrator's; `SecurityError` when others can read it, or it holds none."""
    _check_private(file, "administrator's key")
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecurityError(f"cannot read the administrator's key {file}: {error}") from error
    if not key:
        raise SecurityError(f"{file} holds no key; expected one line, as `openssl rand -hex 32` writes")
    return key


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _restriction(apis: list[str], key: str) -> str:
    return f"{','.join(apis)}:{HEADER}={key}"


def _checked(certificate: Path, key: Path, authorities: Path | None) -> datetime:
    """When the server's certificate expires."""
    try:
        # An extra: only a server with TLS needs it.
        from rfserve.server import certificates
    except ImportError as error:
        raise SecurityError("TLS needs cryptography, which is not installed: pip install 'rfserve[server]'") from error
    chain = certificates.read(certificate)
    expires = certificates.expiry(certificate, chain)
    certificates.check_kind(certificate, chain[0])
    _check_private(key, "key")
    certificates.check_pair(certificate, key)
    if authorities is not None:
        certificates.check_authorities(authorities, certificates.read(authorities))
    return expires


def _check_private(file: Path, what: str) -> None:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise SecurityError(f"cannot read the {what} {file}: {error.strerror}") from error
    if mode & 0o007:
        raise SecurityError(f"every user of this machine can read or change the {what} {file}; chmod o= {file}")
