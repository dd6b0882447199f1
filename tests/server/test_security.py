"""What the server's security is made from, checked before anything starts."""

import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from rfserve.export import live
from rfserve.server.errors import SecurityError
from rfserve.server.options import ServerOptions
from rfserve.server.security import Security, admin_key_of

KEY = "of-the-administrator=with/some+signs=="
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda ca, pair, tmp: {"tls_cert": pair.certificate}, "got one of --tls-cert and --tls-key"),
        (lambda ca, pair, tmp: {"client_ca": ca.file}, "--client-ca without --tls-cert"),
        (
            lambda ca, pair, tmp: {"tls_cert": tmp / "no.pem", "tls_key": pair.key},
            r"cannot read the certificate .*no\.pem: No such",
        ),
        (
            lambda ca, pair, tmp: {"tls_cert": pair.certificate, "tls_key": tmp / "no.key"},
            r"cannot read the key .*no\.key: No such",
        ),
        (
            lambda ca, pair, tmp: {"tls_cert": pair.key, "tls_key": pair.key},
            r"server\.key holds no certificate; expected PEM",
        ),
        (
            lambda ca, pair, tmp: {"tls_cert": pair.certificate, "tls_key": private(pair.certificate, tmp)},
            "cannot be used: ",
        ),
        (
            lambda ca, pair, tmp: {"tls_cert": pair.certificate, "tls_key": ca.issue("other").key},
            "is not the key of",
        ),
        (lambda ca, pair, tmp: both(ca.issue("locked", password="secret")), r"locked\.key is encrypted"),
        (
            lambda ca, pair, tmp: both(ca.issue("old", ends=-DAY)),
            r"CN=old expired at \d{4}-\d\d-\d\d \d\d:\d\d UTC; renew it",
        ),
        (
            lambda ca, pair, tmp: both(ca.issue("early", begins=DAY, ends=3 * DAY)),
            "CN=early is not valid before .* is the clock",
        ),
        (
            lambda ca, pair, tmp: {**both(pair), "client_ca": tmp / "no.pem"},
            r"cannot read the certificate .*no\.pem",
        ),
        (
            lambda ca, pair, tmp: {**both(pair), "client_ca": ca.issue("past", ends=-DAY).certificate},
            "no client can pass: expired at",
        ),
        (
            lambda ca, pair, tmp: {**both(pair), "tls_key": shared(pair.key, tmp)},
            "every user of this machine can read or change the key",
        ),
        (
            lambda ca, pair, tmp: both(ca.issue("edwards", key=ed25519.Ed25519PrivateKey.generate())),
            r"edwards\.pem is for a key of kind Ed25519PublicKey; expected RSA, or ECDSA on P-256 or P-384",
        ),
        (lambda ca, pair, tmp: both(ca.issue("large", key=ec.generate_private_key(ec.SECP521R1()))), "kind secp521r1"),
        (lambda ca, pair, tmp: {"admin_key": "short"}, "got 5 characters; expected 16 to 4096"),
        (lambda ca, pair, tmp: {"admin_key": ""}, "got 0 characters"),
        *(
            (lambda ca, pair, tmp, c=c: {"admin_key": f"long-enough{c}key"}, "without blanks, commas and colons")
            for c in ",: \n\0é"
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(given, message, authority, server_pair, tmp_path):
    with pytest.raises(SecurityError, match=message):
        Security(**given(authority, server_pair, tmp_path))


def both(made) -> dict[str, Path]:
    return {"tls_cert": made.certificate, "tls_key": made.key}


def private(file: Path, folder: Path) -> Path:
    copy = Path(shutil.copy(file, folder / "private.pem"))
    copy.chmod(0o600)
    return copy


def shared(file: Path, folder: Path) -> Path:
    copy = Path(shutil.copy(file, folder / "shared.key"))
    copy.chmod(0o644)
    return copy


@pytest.mark.parametrize("key", ["rsa", "p384"])
def test_other_keys_that_grpc_takes_are_taken(authority, key):
    made = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    }
    assert Security(**both(authority.issue(key, key=made[key]()))).tls


def test_bundle_of_authorities_may_hold_an_old_one(authority, server_pair, tmp_path):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(authority.issue("gone", ends=-DAY).certificate.read_bytes() + authority.file.read_bytes())
    assert Security(**both(server_pair), client_ca=bundle).tls


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (None, 0o600, "cannot read the administrator's key"),
        (b"", 0o600, "holds no key"),
        (b"\xff\xfe", 0o600, "cannot read the administrator's key"),
        (KEY.encode(), 0o644, r"every user of this machine .*; chmod o= "),
        (KEY.encode(), 0o602, "every user of this machine can read or change"),
    ],
)
def test_file_of_the_administrators_key_is_refused(content, mode, message, tmp_path):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    with pytest.raises(SecurityError, match=message):
        admin_key_of(file)


def test_key_is_read_by_server_and_publisher_alike(tmp_path):
    file = tmp_path / "key"
    file.write_text(f"  {KEY}\n")
    file.chmod(0o640)
    assert admin_key_of(file) == live.admin_key(file) == KEY


@pytest.mark.parametrize("option", ["open_admin", "open_shared_memory"])
@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.7", "triton.example"])
def test_nothing_is_opened_to_other_machines(option, address, tmp_path):
    with pytest.raises(SecurityError, match=f"--{option.replace('_', '-')} is for loopback, got --address {address}"):
        ServerOptions(repository=tmp_path, address=address, security=Security(**{option: True}))
    ServerOptions(repository=tmp_path, address="127.0.0.1", security=Security(**{option: True}))


def test_notes_say_what_should_be_known(authority, server_pair):
    assert Security().notes("127.0.0.1") == []
    assert Security(**both(server_pair)).notes("0.0.0.0") == []
    assert "192.0.2.7 is served without TLS" in Security().notes("192.0.2.7")[0]
    soon = Security(**both(authority.issue("soon", ends=3 * DAY)))
    assert re.search(r"soon\.pem is valid until .* UTC only; renew it", soon.notes("0.0.0.0")[0])


def test_server_without_tls_needs_no_cryptography(tmp_path):
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path\n"
        "from rfserve.server.errors import SecurityError\n"
        "from rfserve.server.security import Security\n"
        "Security()\n"
        "try: Security(tls_cert=Path('a'), tls_key=Path('b'))\n"
        "except SecurityError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "TLS needs cryptography, which is not installed: pip install 'rfserve[server]'\n"
