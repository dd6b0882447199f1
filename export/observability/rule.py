"""Prometheus rules as values: what is recorded, what is an alert, and for which servers it works."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

JOB = "rfserve"
# Of the pods that serve.
NAMESPACE = "rfserve"
RUNBOOK = "deploy/observability/RUNBOOK.md"


class WorksWith(StrEnum):
    """Whose metrics a rule needs. NVIDIA's image has none but Triton's own."""

    ANY = "any Triton"
    RFSERVE = "rfserve-server run"
    SUMMARIES = "Triton with --metrics-config=summary_latencies=true, which rfserve-server run does not need"


class Severity(StrEnum):
    """Whether somebody has to get up."""

    PAGE = "page"
    TICKET = "ticket"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A recording rule."""

    name: str
    expression: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        labels = {"labels": dict(self.labels)} if self.labels else {}
        return {"record": self.name, "expr": self.expression, **labels}


@dataclass(frozen=True, kw_only=True)
class Alert:
    """An alerting rule. `summary` and `description` may hold Prometheus' templates; the runbook has a section of the
    alert's name.
    """

    name: str
    expression: str
    holds_for: str
    severity: Severity
    works_with: WorksWith
    summary: str
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.holds_for,
            "labels": {"severity": str(self.severity), **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "works_with": str(self.works_with),
                "runbook_url": f"{RUNBOOK}#{self.name.lower()}",
            },
        }


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rules that are evaluated one after the other; `interval` is that of the configuration when it is None."""

    name: str
    rules: tuple[Record | Alert, ...]
    interval: str | None = None

    def document(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        interval = {} if self.interval is None else {"interval": self.interval}
        return {"name": self.name, **interval, "rules": [rule.document() for rule in self.rules]}
