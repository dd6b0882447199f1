"""The alias of a release: moved once, not at all, or said to be in doubt."""

import shutil
from pathlib import Path

import pytest

from rfserve.export import release
from rfserve.export.errors import StoreUnavailable
from rfserve.export.manifest import GRAPH_FILE
from rfserve.export.repository import Repository, version_files
from rfserve.export.spec import find
from rfserve.release.alias_move import UNMOVED, AliasMove
from rfserve.release.errors import NotReleased

SPEC = find("mel_features")
BOTH = {"cpu": 2, "gpu": 2}


class TornRepository(Repository):
    """Loses its answer to so many changes after it has written them, as an endpoint may that goes away."""

    torn = 0

    def change_serving(self, spec, change):
        after = super().change_serving(spec, change)
        if self.torn:
            self.torn -= 1
            raise StoreUnavailable("no answer")
        return after


@pytest.fixture
def repository(small_model: Path, tmp_path: Path) -> TornRepository:
    """Two versions, the first promoted."""
    found = TornRepository(Path(shutil.copytree(small_model, tmp_path / "repository")))

    def fill(folder: Path):
        shutil.copy(found.folder / SPEC.name / "1" / GRAPH_FILE, folder)
        files = version_files(folder)
        return lambda number: type(first)(model=SPEC.name, version=number, weights="", files=files, opset=SPEC.opset)

    first = found.manifest(SPEC.name, 1)
    found.publish(SPEC, fill)
    release.promote(found, SPEC, 1)
    return found


def test_alias_moves_once(repository):
    before = repository.serving(SPEC.name)
    AliasMove(repository, SPEC, before, BOTH).make()
    moved = repository.serving(SPEC.name)
    assert moved.promoted == BOTH
    AliasMove(repository, SPEC, moved, BOTH).make()
    assert repository.serving(SPEC.name) == moved
    assert "versions: 2" in (repository.folder / SPEC.name / "configs" / "gpu.pbtxt").read_text()


def test_alias_of_one_target_leaves_the_others(repository):
    AliasMove(repository, SPEC, repository.serving(SPEC.name), {"cpu": 2}).make()
    assert repository.serving(SPEC.name).promoted == {"cpu": 2, "gpu": 1}


def test_alias_that_somebody_else_moved_stays_there(repository):
    before = repository.serving(SPEC.name)
    release.promote(repository, SPEC, 2)
    now = repository.serving(SPEC.name)
    move = AliasMove(repository, SPEC, before, BOTH)
    with pytest.raises(NotReleased, match="somebody moved the alias meanwhile"):
        move.make()
    assert (repository.serving(SPEC.name), move.state) == (now, UNMOVED)


def test_move_that_failed_half_way_is_taken_back(repository):
    before = repository.serving(SPEC.name)
    move = AliasMove(repository, SPEC, before, BOTH)
    repository.torn = 1
    with pytest.raises(StoreUnavailable):
        move.make()
    assert (repository.serving(SPEC.name), move.state) == (before, UNMOVED)


def test_move_that_cannot_be_taken_back_is_said_to_be_in_doubt(repository):
    move = AliasMove(repository, SPEC, repository.serving(SPEC.name), BOTH)
    repository.torn = 2
    with pytest.raises(StoreUnavailable):
        move.make()
    assert move.state.startswith("may have moved, as ")
