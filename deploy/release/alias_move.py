"""The moment in which a version is released: the alias moves, in the repository that every pod starts from."""

from collections.abc import Mapping

from rfserve.export import alias
from rfserve.export.errors import ExportError
from rfserve.export.model_repository import ModelRepository
from rfserve.export.serving import Event, Serving
from rfserve.export.spec.model import Served
from rfserve.release.errors import NotReleased

UNMOVED = "did not move"


class AliasMove:
    """The move of a model's alias from where it stood `before` to a version for each target.

    `state` says, in words that follow "the alias", what became of it.
    """

    def __init__(self, repository: ModelRepository, spec: Served, before: Serving, versions: Mapping[str, int]) -> None:
        self._repository, self._spec, self._before, self._versions = repository, spec, before, versions
        self.state = UNMOVED

    def make(self) -> None:
        """Move it; where it stands there already, nothing is written.

        `NotReleased` when somebody else moved it meanwhile. When it fails, it is as it was, or `state` says otherwise.
        """
        precisions = self._repository.precisions(self._spec.name)
        standing = {t: self._before.served(t, precisions) for t in self._versions}
        mine: list[Event] = []

        def change(state: Serving) -> Serving:
            now = {t: state.served(t, precisions) for t in self._versions}
            if now != standing:
                raise NotReleased(f"{self._spec.name}: somebody moved the alias meanwhile, to {now}; see its history")
            coming = {t: v for t, v in self._versions.items() if state.promoted.get(t) != v}
            after = alias.moved(state, "promote", coming)
            mine[:] = after.events[len(state.events) :]
            return after

        try:
            self._repository.change_serving(self._spec, change)
        except BaseException:
            self._take_back(mine)
            raise

    def _take_back(self, mine: list[Event]) -> None:
        """Undo what was written of a move that failed half-way, as in an object store that went away."""

        def undone(state: Serving) -> Serving:
            for event in mine:
                state = state.undone(event, self._before)
            return state

        try:
            if mine and set(mine) & set(self._repository.serving(self._spec.name).events):
                self._repository.change_serving(self._spec, undone)
        except ExportError as problem:
            self.state = f"may have moved, as {self._repository.location} could not be put back ({problem})"
