"""What is started when it is entered, and stopped when it is left, however that comes."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Lifetime(ABC):
    """A context manager around `start` and `stop`."""

    @abstractmethod
    def start(self) -> None:
        """Return when it is ready to be used."""

    @abstractmethod
    def stop(self) -> int | None:
        """Stop it, and everything that it started."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
