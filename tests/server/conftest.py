"""Certificates as an authority signs them, and a repository of one small model."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import GRAPHS

DAY = timedelta(days=1)
# An address of this machine; certificates name it, and no other.
NAMED = "127.0.0.2"


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


class Authority:
    """Signs certificates, and writes them as PEM files into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(self._sign(name, self._key, timedelta(0), 365 * DAY, authority=True)))

    def issue(
        self, name: str, *, begins: timedelta = -DAY, ends: timedelta = 90 * DAY, password: str = "", key: Any = None
    ) -> Pair:
        key = key or ec.generate_private_key(ec.SECP256R1())
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.certificate.write_bytes(_pem(self._sign(name, key, begins, ends)))
        locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        pair.key.write_bytes(key.private_bytes(encoding, form, locked))
        pair.key.chmod(0o600)
        return pair

    def _sign(self, name: str, key, begins: timedelta, ends: timedelta, *, authority: bool = False):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now + begins, now + ends - DAY))
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(NAMED))]), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="session")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority")


@pytest.fixture(scope="session")
def stranger(folder: Path) -> Authority:
    return Authority(folder, "stranger")


@pytest.fixture(scope="session")
def server_pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture(scope="session")
def client_pair(authority: Authority) -> Pair:
    return authority.issue("client")


@pytest.fixture(scope="session")
def one_model(tmp_path_factory) -> Path:
    """A repository of `mel_features`."""
    folder: Path = tmp_path_factory.mktemp("one_model")
    publish(GRAPHS["mel_features"], Repository(folder), Source(), version=None, report=lambda _: None)
    return folder
