"""PEM certificates: read, paired with their key, and refused once they are out of date."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from rfserve.server.errors import SecurityError

CURVES = ("secp256r1", "secp384r1")


def read(file: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, in its order; `SecurityError` when there is none."""
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise SecurityError(f"cannot read the certificate {file}: {error.strerror}") from error
    except ValueError as error:
        raise SecurityError(f"{file} holds no certificate; expected PEM (-----BEGIN CERTIFICATE-----)") from error


def check_kind(file: Path, certificate: x509.Certificate) -> None:
    """`SecurityError` when gRPC's TLS takes the key and then closes every connection without a word (tried on 2.51)."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES):
        return
    kind = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
    raise SecurityError(f"{file} is for a key of kind {kind}; expected RSA, or ECDSA on P-256 or P-384")


def check_pair(certificate: Path, key: Path) -> None:
    """`SecurityError` unless the key is the certificate's own, and tritonserver can open it: without a password."""

    def refuse_password() -> str:
        raise SecurityError(f"{key} is encrypted; tritonserver takes keys without a password only")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=refuse_password)
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise SecurityError(f"{key} is not the key of {certificate}; give the two that belong together") from error
        raise SecurityError(
            f"{certificate} and {key} cannot be used: {error.reason or error}; expected a certificate and its private "
            "key, both PEM"
        ) from error
    except OSError as error:
        raise SecurityError(f"cannot read the key {key}: {error.strerror}") from error


def expiry(file: Path, found: Sequence[x509.Certificate]) -> datetime:
    """When the first of a file's certificates stops to be valid; `SecurityError` when one is not valid now."""
    now = datetime.now(UTC)
    for certificate in found:
        problem = _problem(certificate, now)
        if problem:
            raise SecurityError(f"{file}: the certificate of {certificate.subject.rfc4514_string()} {problem}")
    return min(c.not_valid_after_utc for c in found)


def check_authorities(file: Path, found: Sequence[x509.Certificate]) -> None:
    """`SecurityError` when none of a bundle's certificates is valid now: an old one does no harm."""
    now = datetime.now(UTC)
    problems = [_problem(c, now) for c in found]
    if all(problems):
        raise SecurityError(f"{file}: no client can pass: {'; '.join(problems)}")


def _problem(certificate: x509.Certificate, now: datetime) -> str:
    if certificate.not_valid_after_utc <= now:
        return f"expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it"
    if certificate.not_valid_before_utc > now:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; is the clock right?"
    return ""
