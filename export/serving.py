"""Which version of a model each target serves, and how that came about: `serving.json` beside the configuration."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from rfserve.export.errors import RepositoryError, VersionNotFound
from rfserve.export.spec import ModelSpec, Placement, SpecError
from rfserve.export.spec.model import SPEC_CORES, TARGETS, Served
from rfserve.export.spec.precision import suits

FILE_NAME = "serving.json"
ACTIONS = ("publish", "promote", "rollback", "retire")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One change: what was done to which version, for which targets, and when (UTC, ISO 8601)."""

    action: str
    version: int
    targets: tuple[str, ...] = ()
    note: str = ""
    at_utc: str = field(default_factory=_now)

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise RepositoryError(f"history: got action {self.action!r}; expected one of {', '.join(ACTIONS)}")


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The promoted version of each target, and every event, oldest first.

    A target without a promoted version serves the newest one whose precision suits it. `cores` is how many CPU cores a
    target's machines have, where they are not those that the specs were made for. `placements` are those that were
    tuned on such machines, in the place of the spec's.
    """

    promoted: Mapping[str, int] = field(default_factory=dict)
    cores: Mapping[str, int] = field(default_factory=dict)
    placements: Mapping[str, Placement] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    def with_event(self, event: Event) -> "Serving":
        """With one more event, and the promoted versions that follow from it."""
        promoted = dict(self.promoted)
        if event.action in {"promote", "rollback"}:
            promoted |= dict.fromkeys(event.targets, event.version)
        return replace(self, promoted=promoted, events=(*self.events, event))

    def on_cores(self, target: str, cores: int) -> "Serving":
        """With machines of so many CPU cores for a target; what was tuned on others does not hold for them."""
        if cores < 1:
            raise RepositoryError(f"got {cores} cores for {target}; expected 1 or more")
        if cores == self.cores.get(target, SPEC_CORES):
            return self
        others = {t: n for t, n in self.cores.items() if t != target}
        kept = self.placed(target, None)
        return replace(kept, cores=others if cores == SPEC_CORES else others | {target: cores})

    def placed(self, target: str, placement: Placement | None) -> "Serving":
        """With a tuned placement for a target, or with the spec's own again."""
        others = {t: p for t, p in self.placements.items() if t != target}
        return replace(self, placements=others if placement is None else others | {target: placement})

    def placing(self, spec: Served) -> Served:
        """The model as its targets run it: with the placements that were tuned."""
        if isinstance(spec, ModelSpec):
            for target, placement in self.placements.items():
                spec = spec.placed(target, placement)
        return spec

    @property
    def tuned(self) -> str:
        """Which placements were tuned, in words; empty when none was."""
        return "; ".join(
            f"tuned for {target}: {p.instances} instances, {p.intra_op_threads} threads each, "
            f"{p.joined_rows} rows joined"
            for target, p in self.placements.items()
        )

    def undone(self, event: Event, before: "Serving") -> "Serving":
        """Without an event that did not work out, and with what its targets had promoted `before` it.

        A target that was given another version meanwhile keeps that one.
        """
        promoted = dict(self.promoted)
        for target in event.targets:
            if promoted.get(target) == event.version:
                del promoted[target]
                if target in before.promoted:
                    promoted[target] = before.promoted[target]
        events = list(self.events)
        if event in events:
            events.reverse()
            events.remove(event)
            events.reverse()
        return replace(self, promoted=promoted, events=tuple(events))

    def with_missed(self, missed: Iterable[Event]) -> "Serving":
        """With events that their writer did not live to note, each where its time puts it."""
        events = list(self.events)
        for event in missed:
            place = next((i for i, e in enumerate(events) if e.at_utc > event.at_utc), len(events))
            events.insert(place, event)
        return replace(self, events=tuple(events))

    def noted(self, action: str) -> set[int]:
        """The versions that the history has an event of this kind for."""
        return {e.version for e in self.events if e.action == action}

    def served(self, target: str, precisions: Mapping[int, str]) -> int | None:
        """The version that `target` serves out of the published ones (version to precision); None without any.

        `VersionNotFound` when the promoted version is not published any more.
        """
        version = self.promoted.get(target)
        if version is None:
            return _newest(target, precisions)
        if version not in precisions:
            raise VersionNotFound(
                f"version {version} is promoted for {target} but not published; it has {sorted(precisions)}: promote "
                "one of those"
            )
        return version

    def policy(self, target: str, precisions: Mapping[int, str]) -> int | None:
        """The version to name in the configuration of `target`; None where Triton's own rule (the newest) will do."""
        version = self.served(target, precisions)
        if target not in self.promoted and version == max(precisions, default=None):
            return None
        return version

    def previous(self, target: str, precisions: Mapping[int, str]) -> int:
        """The version to go back to: the last one served before the present one that is still published.

        Where the history does not reach back that far, the newest older one that suits the target and was not rolled
        back itself. `VersionNotFound` when there is none.
        """
        present = self.served(target, precisions)
        course = self._course(target)
        earlier = [v for v, _ in course.served[:-1] if v in precisions and v != present]
        if earlier:
            return earlier[-1]
        older = [
            v
            for v, precision in precisions.items()
            if present is not None and v < present and suits(target, precision) and v not in course.withdrawn
        ]
        if not older:
            raise VersionNotFound(
                f"{target} serves version {present or '-'}, and nothing it served before is left; promote one of "
                f"{sorted(precisions)}"
            )
        return max(older)

    def last_changed(self) -> tuple[str, ...]:
        """The targets whose served version the latest event changed, of those that a rollback has not undone."""
        changes = {target: self._course(target).changed_by for target in TARGETS}
        latest = max(changes.values())
        return tuple(t for t, index in changes.items() if index == latest)

    def _course(self, target: str) -> "_Course":
        course = _Course()
        promoted: int | None = None
        known: dict[int, str] = {}
        for index, event in enumerate(self.events):
            if event.action == "publish":
                known[event.version] = event.note
            elif event.action == "retire":
                known.pop(event.version, None)
            elif target in event.targets:
                promoted = event.version
                if event.action == "rollback":
                    course = course.back_to(event.version)
                else:
                    course.withdrawn.discard(event.version)
            served = promoted or _newest(target, known)
            if served is not None and served != course.present:
                course.served.append((served, index))
        return course

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Serving":
        """From the file's text; `RepositoryError` when it is damaged.

        Bytes that are no UTF-8 must have been replaced by U+FFFD, which is damage: `to_json` writes ASCII alone.
        """
        try:
            if "\ufffd" in text:
                raise ValueError("it holds bytes that are no UTF-8")
            content: dict[str, Any] = json.loads(text)
            events = tuple(Event(**e | {"targets": tuple(e["targets"])}) for e in content["events"])
            promoted = {str(t): int(v) for t, v in content["promoted"].items()}
            cores = {str(t): int(n) for t, n in content.get("cores", {}).items()}
            placements = {str(t): Placement(**p) for t, p in content.get("placements", {}).items()}
        except (json.JSONDecodeError, TypeError, KeyError, ValueError, AttributeError, SpecError) as error:
            raise RepositoryError(
                f"{FILE_NAME} is damaged ({error}); delete it, and promote the version to serve"
            ) from error
        unknown = {*promoted, *cores, *placements} - set(TARGETS)
        if unknown:
            raise RepositoryError(f"{FILE_NAME}: got targets {sorted(unknown)}; expected some of {', '.join(TARGETS)}")
        return cls(promoted=promoted, cores=cores, placements=placements, events=events)


@dataclass(frozen=True, kw_only=True)
class _Course:
    """The versions that a target came to serve, each with the index of its event, and those rolled back since."""

    served: list[tuple[int, int]] = field(default_factory=list)
    withdrawn: set[int] = field(default_factory=set)

    @property
    def present(self) -> int | None:
        return self.served[-1][0] if self.served else None

    @property
    def changed_by(self) -> int:
        return self.served[-1][1] if self.served else -1

    def back_to(self, version: int) -> "_Course":
        """Cut off behind the last time that `version` was served: what was rolled back is no way back."""
        places = [i for i, (v, _) in enumerate(self.served) if v == version]
        kept = places[-1] + 1 if places else 0
        gone = {v for v, _ in self.served[kept:]} - {version}
        return _Course(served=self.served[:kept], withdrawn=self.withdrawn | gone)


def _newest(target: str, precisions: Mapping[int, str]) -> int | None:
    """The rule without a promotion: the newest version that suits the target, else the newest."""
    fitting = [v for v, precision in precisions.items() if suits(target, precision)]
    return max(fitting or precisions, default=None)
