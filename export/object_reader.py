"""What a model repository in an object store holds: versions, manifests, claims, history and configuration."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rfserve.export import serving
from rfserve.export.claim import Claim
from rfserve.export.errors import RepositoryError
from rfserve.export.manifest import FILE_NAME, Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.object_location import ObjectLocation
from rfserve.export.object_store import TIMEOUT_S, ObjectStore
from rfserve.export.serving import Serving
from rfserve.export.spec.model import TARGETS

CLAIMS = ".claims"
# Named by a configuration that must not serve anything yet.
NO_VERSION = 0


class ObjectReader(ModelRepository):
    """The reading half of an `ObjectRepository`."""

    def __init__(self, location: str, timeout_s: float = TIMEOUT_S) -> None:
        self._at = ObjectLocation.parse(location)
        self._store = ObjectStore(self._at, timeout_s)
        self._known_precisions: dict[tuple[str, int], str] = {}

    @property
    def location(self) -> str:
        """Where it is, as messages say it."""
        return str(self._at)

    def models(self) -> list[str]:
        """The models that have objects, by name; `RepositoryError` when the repository is not there."""
        below = self._at.key("")
        found = [name for name in self._store.folders(below) if not name.startswith(".")]
        if not found:
            raise RepositoryError(
                f"no model repository at {self.location}; write one with `rfserve-export write MODEL`"
            )
        return found

    def versions(self, model: str) -> list[int]:
        """The published versions of a model, ascending: those whose manifest is there."""
        return self._contents(model).published

    def manifest(self, model: str, version: int) -> Manifest:
        """The manifest of a version; `RepositoryError` when it cannot be read."""
        there = self._store.read(self._at.key(model, version, FILE_NAME))
        if there is None:
            raise RepositoryError(f"{model}/{version} has no {FILE_NAME}: it is not published; write it again")
        return Manifest.from_json(there.content.decode(errors="replace"), f"{model}/{version}")

    def manifest_sha256(self, model: str, version: int) -> str:
        """The SHA-256 of a version's manifest, which stands for the whole version."""
        facts = self._store.facts(self._at.key(model, version, FILE_NAME))
        if facts is None:
            raise RepositoryError(f"{model}/{version} has no {FILE_NAME}: it is not published; write it again")
        return str(facts["sha256"])

    def sizes(self, model: str, version: int) -> dict[str, int]:
        """The objects of a version as they are now, by path, in bytes; without reading them."""
        base = self._at.key(model, version, "")
        return {key.removeprefix(base): size for key, size in self._store.sizes(base).items()}

    @contextmanager
    def version_folder(self, model: str, version: int) -> Iterator[Path]:
        """A local folder with the files of a version, downloaded and verified, as long as the context lasts.

        `RepositoryError` when an object is missing, changed or not in the manifest, `VersionNotFound` when the version
        is not published.
        """
        self.require_published(model, version)
        manifest = self.manifest(model, version)
        with scratch_folder() as scratch:
            folder = scratch / model / str(version)
            with disk_errors():
                self._download(f"{model}/{version}", folder)
            problems = manifest.differences(folder)
            if problems:
                raise RepositoryError(f"{model}/{version} is not as it was published: {'; '.join(problems)}")
            yield folder

    def _download(self, version: str, folder: Path) -> None:
        base = self._at.key(version, "")
        for key in self._store.sizes(base):
            name = key.removeprefix(base)
            if {".", ".."} & set(name.split("/")):
                raise RepositoryError(f"{version}: got an object named {name!r}; expected a path below it")
            if is_file(name):
                file = folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                self._store.download(key, file)

    def serving(self, model: str) -> Serving:
        """What is promoted, and the history; `RepositoryError` when the object is damaged."""
        return self._serving(model)[0]

    def read_file(self, model: str, name: str) -> bytes | None:
        """A file that no version owns, by its path below the model's folder; None when it is missing."""
        there = self._store.read(self._at.key(model, name))
        return None if there is None else there.content

    def _policies(self, model: str, state: Serving) -> dict[str, int | None]:
        """Always a version: Triton's own rule, the newest, would take one that is being uploaded."""
        precisions = self.precisions(model)
        return {target: state.served(target, precisions) or NO_VERSION for target in TARGETS}

    def _precision(self, model: str, version: int) -> str:
        """Asked once: a published version never changes, and its number is never used again."""
        if (model, version) not in self._known_precisions:
            self._known_precisions[model, version] = super()._precision(model, version)
        return self._known_precisions[model, version]

    def next_number(self, model: str, state: Serving) -> int:
        """Above every number that is or ever was published, claimed or begun."""
        return max([*self._contents(model).numbers, *(e.version for e in state.events)], default=0) + 1

    def _contents(self, model: str) -> "Contents":
        base = self._at.key(model, "")
        return Contents({key.removeprefix(base): size for key, size in self._store.sizes(base).items()})

    def _read_claim(self, model: str, number: int) -> Claim | None:
        key = self._at.key(model, CLAIMS, number)
        there = self._store.read(key)
        return None if there is None else Claim.from_json(there.content.decode(errors="replace"), key)

    def _serving(self, model: str) -> tuple[Serving, str | None]:
        there = self._store.read(self._at.key(model, serving.FILE_NAME))
        if there is None:
            return Serving(), None
        return Serving.from_json(there.content.decode(errors="replace")), there.tag


class Contents:
    """The objects of one model, by path below its name."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        paths = [name.split("/") for name in sizes]
        self.published = sorted(int(p[0]) for p in paths if _is_number(p[0]) and p[1:] == [FILE_NAME])
        self.claimed = sorted(int(p[1]) for p in paths if len(p) == 2 and p[0] == CLAIMS and _is_number(p[1]))
        self.numbers = {*self.claimed, *(int(p[0]) for p in paths if len(p) > 1 and _is_number(p[0]))}


def is_file(name: str) -> bool:
    """Whether the name of an object is a file's: consoles make empty objects for folders, with a slash at the end."""
    return bool(name) and not name.endswith("/")


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A local folder for the files of one version."""
    with disk_errors():
        made = tempfile.TemporaryDirectory(prefix="rfserve-")
    with made as folder:
        yield Path(folder)


@contextmanager
def disk_errors() -> Iterator[None]:
    """What goes wrong in the local folder, as a `RepositoryError`."""
    try:
        yield
    except OSError as error:
        raise RepositoryError(
            f"cannot use a temporary folder in {tempfile.gettempdir()}: {error}; make room, or set TMPDIR"
        ) from error
