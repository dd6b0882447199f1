"""What the blocking and the asynchronous client are made of, whatever they do with it."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from rfserve.clients import tracing
from rfserve.clients.connection import Connection
from rfserve.clients.observation import Observation
from rfserve.clients.request import Question
from rfserve.clients.retries import Counts, RetryBudget
from rfserve.export.spec.queueing import Priority


class BaseClient:
    """Where the servers are, which model is asked, and which receivers may be sent; see `LocalizationClient`."""

    def __init__(
        self,
        make: Callable[..., Any],
        url: str | Sequence[str],
        *,
        timeout_s: float,
        model: str,
        version: str,
        known_receivers: Collection[int] | None,
        minimum_receivers: int | None,
        priority: Priority,
        pad_receivers: bool = True,
        **options: Any,
    ) -> None:
        self.connection = Connection(url=url, timeout_s=timeout_s, **options)
        self.model, self.version = model, version
        self.known_receivers, self.minimum_receivers = known_receivers, minimum_receivers
        self.priority = Priority(priority)
        self.pad_receivers = pad_receivers
        self.counts = Counts()
        self._budget = RetryBudget(self.connection.retry_limit)
        self._servers = self.connection.open(make)

    def _inference(
        self, model: str, inputs: list[Any], outputs: list[Any], version: str, request_id: str
    ) -> dict[str, Any]:
        """Keyword arguments for tritonclient's `infer`, the same for every try of a call."""
        return {
            "model_name": model,
            "inputs": inputs,
            "model_version": version,
            "outputs": outputs,
            "request_id": request_id,
            "priority": self.priority,
            "headers": tracing.headers(),
        }

    def _question(self, events: Sequence[Sequence[Observation]], request_id: str | None) -> Question:
        return Question(
            self.model,
            events,
            request_id,
            known_receivers=self.known_receivers,
            minimum_receivers=self.minimum_receivers,
            pad_receivers=self.pad_receivers,
        )
