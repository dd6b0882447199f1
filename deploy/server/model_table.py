"""What a running server says of its models: one row for each, with its state and what it has done."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rfserve.server.http_api import HttpApi

READY = "READY"
NOT_LOADED = "NOT LOADED"


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model: the versions that are served, and the reason when none is.

    `requests` and `failures` are Triton's own counts since it loaded the served versions, canaries and warm-ups
    included.
    """

    name: str
    state: str
    versions: tuple[str, ...] = ()
    reason: str = ""
    requests: int = 0
    failures: int = 0

    @property
    def ready(self) -> bool:
        """Whether a version is served."""
        return self.state == READY


def read(http: HttpApi) -> tuple[ModelRow, ...]:
    """The models of the server, by name: only those that are served while it cannot list its repository, or wants a
    key for that; none when it does not answer.
    """
    statistics = http.statistics()
    return rows(http.repository_index() or [s | {"state": READY} for s in statistics], statistics)


def rows(index: Iterable[Mapping[str, Any]], statistics: Iterable[Mapping[str, Any]]) -> tuple[ModelRow, ...]:
    """One row for each model of Triton's `index`, which has an entry for each version, old ones included."""
    entries: dict[str, list[Mapping[str, Any]]] = {}
    for entry in index:
        entries.setdefault(str(entry["name"]), []).append(entry)
    counts: dict[str, tuple[int, int]] = {}
    for item in statistics:
        done, failed = counts.get(str(item["name"]), (0, 0))
        found = item.get("inference_stats", {})
        counts[str(item["name"])] = (
            done + int(found.get("success", {}).get("count", 0)),
            failed + int(found.get("fail", {}).get("count", 0)),
        )
    made = []
    for name in sorted(entries):
        served = [e for e in entries[name] if e.get("state") == READY]
        # The newest version speaks for a model that has none.
        last = max(entries[name], key=lambda e: int(e.get("version") or 0))
        done, failed = counts.get(name, (0, 0))
        made.append(
            ModelRow(
                name=name,
                state=READY if served else str(last.get("state") or NOT_LOADED),
                versions=tuple(str(e.get("version", "")) for e in served),
                reason="" if served else plain_reason(str(last.get("reason", ""))),
                requests=done + failed,
                failures=failed,
            )
        )
    return tuple(made)


def plain_reason(reason: str) -> str:
    """Triton's reason in one line, without the Python traceback that follows it; the log has \\n for a line break."""
    return " ".join(reason.replace("\\n", "\n").partition("\nAt:")[0].split())
