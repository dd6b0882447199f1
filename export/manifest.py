"""What a published version is made of and was measured to be: `manifest.json` beside its graph, written last."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from rfserve.export.errors import RepositoryError
from rfserve.export.spec.precision import FP32

FILE_NAME = "manifest.json"
GRAPH_FILE = "model.onnx"
SCHEMA = 1
TOOLS = ("rfserve", "torch", "timm", "onnx", "onnxruntime-gpu", "numpy")


def git_revision() -> str | None:
    """The commit of the checkout this code stands in, with `-dirty` when it has changes; None outside of one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One version of one model. `files` maps a path below the version folder to its SHA-256 and size in bytes.

    `training` is what a checkpoint says of how it was trained: recipe, seed, split, and a digest of the data.
    """

    model: str
    version: int
    weights: str
    precision: str = FP32
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checkpoint: Mapping[str, str] | None = None
    variant: str | None = None
    encoder_order: str | None = None
    scaling: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    opset: int | None = None
    parity: Mapping[str, Any] | None = None
    drift: Mapping[str, Any] | None = None
    steps: tuple[str, ...] = ()
    created_utc: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    tools: Mapping[str, str] = field(default_factory=lambda: {t: installed_version(t) for t in TOOLS})
    git_revision: str | None = field(default_factory=git_revision)
    schema: int = SCHEMA

    @property
    def size_bytes(self) -> int:
        """The size of the version's files."""
        return sum(int(facts["bytes"]) for facts in self.files.values())

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def read(cls, version_folder: Path) -> "Manifest":
        """The manifest of a version folder; `RepositoryError` when it is missing, damaged or of another schema."""
        file = version_folder / FILE_NAME
        where = f"{version_folder.parent.name}/{version_folder.name}"
        try:
            return cls.from_json(file.read_text(encoding="utf-8", errors="replace"), where)
        except FileNotFoundError as error:
            raise RepositoryError(f"{where} has no {FILE_NAME}: rfserve did not publish it; write it again") from error

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """From the text of the file; `RepositoryError`, which says `where` it is from, when it is damaged.

        Bytes that are no UTF-8 must have been replaced by U+FFFD, which is damage: `to_json` writes ASCII alone.
        """
        if "\ufffd" in text:
            raise RepositoryError(
                f"{where}/{FILE_NAME} is damaged (it holds bytes that are no UTF-8); write the version again"
            )
        try:
            content = json.loads(text)
            found = cls(**content | {"steps": tuple(content["steps"])})
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise RepositoryError(f"{where}/{FILE_NAME} is damaged ({error}); write the version again") from error
        if found.schema != SCHEMA:
            raise RepositoryError(f"{where}/{FILE_NAME} has schema {found.schema}; this rfserve reads {SCHEMA}")
        return found

    def differences(self, version_folder: Path) -> list[str]:
        """What in the folder is not as it was published: missing, changed and foreign files."""
        problems = []
        for name, facts in self.files.items():
            file = version_folder / name
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif file_facts(file) != dict(facts):
                problems.append(f"{name} changed: got {file_facts(file)}, published {dict(facts)}")
        known = {FILE_NAME, *self.files}
        foreign = sorted(f.name for f in version_folder.iterdir() if f.name not in known)
        return [*problems, *(f"{name} is not in the manifest" for name in foreign)]


def file_facts(file: Path) -> dict[str, Any]:
    """SHA-256 and size in bytes of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": file.stat().st_size}
