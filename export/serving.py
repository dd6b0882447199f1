"""Which version of a model each target serves, and how that came about: `serving.json` beside the configuration."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from rfserve.export.errors import RepositoryError, VersionNotFound
from rfserve.export.spec.model import TARGETS
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

    A target without a promoted version serves the newest one whose precision suits it.
    """

    promoted: Mapping[str, int] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    def with_event(self, event: Event) -> "Serving":
        """With one more event, and the promoted versions that follow from it."""
        promoted = dict(self.promoted)
        if event.action in {"promote", "rollback"}:
            promoted |= dict.fromkeys(event.targets, event.version)
        return replace(self, promoted=promoted, events=(*self.events, event))

    def served(self, target: str, precisions: Mapping[int, str]) -> int | None:
        """The version that `target` serves out of the published ones (version to precision); None without any.

        `VersionNotFound` when the promoted version is not published any more.
        """
        version = self.promoted.get(target)
        if version is None:
            fitting = [v for v, precision in precisions.items() if suits(target, precision)]
            return max(fitting or precisions, default=None)
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

    def previous(self, target: str, published: Iterable[int]) -> int:
        """The version to go back to: the last one served before the present one that is still published.

        `VersionNotFound` when there is none.
        """
        left = set(published)
        present = self.promoted.get(target)
        served: list[int] = []
        for event in self.events:
            if event.action == "promote" and target in event.targets:
                served.append(event.version)
            elif event.action == "rollback" and target in event.targets:
                # What was rolled back is no way back.
                served = served[: served.index(event.version) + 1] if event.version in served else [event.version]
        earlier = [v for v in served[:-1] if v in left and v != present]
        if earlier:
            return earlier[-1]
        older = [v for v in left if present is not None and v < present]
        if not older:
            raise VersionNotFound(f"{target} serves {present or 'the newest version'}; nothing older is left to serve")
        return max(older)

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Serving":
        """From the file's text; `RepositoryError` when it is damaged."""
        try:
            content: dict[str, Any] = json.loads(text)
            events = tuple(Event(**e | {"targets": tuple(e["targets"])}) for e in content["events"])
            promoted = {str(t): int(v) for t, v in content["promoted"].items()}
        except (json.JSONDecodeError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise RepositoryError(
                f"{FILE_NAME} is damaged ({error}); delete it, and promote the version to serve"
            ) from error
        unknown = set(promoted) - set(TARGETS)
        if unknown:
            raise RepositoryError(f"{FILE_NAME}: got targets {sorted(unknown)}; expected some of {', '.join(TARGETS)}")
        return cls(promoted=promoted, events=events)
