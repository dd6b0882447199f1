"""What became of each event: one JSON line for each, which is the journal and the result in one.

A line is written whole and reaches the disk before the next event begins. So after a crash at any point an event is
either in the file once, or not at all and then located again; no second file has to agree.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from rfserve.clients.errors import ClientError

if sys.platform != "win32":
    import fcntl


class Journal:
    """The file, open for one watcher at a time; `ClientError` when another has it, or it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        if sys.platform == "win32":
            raise ClientError("the journal needs POSIX file locks; run the watch under Linux, macOS or WSL")
        self.path = path
        self._last: dict[str, dict[str, Any]] = {}
        try:
            new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if new:
                _sync_folder(path.parent)
        except OSError as error:
            raise ClientError(f"cannot open {path}: {error}; give another place with --state") from error
        try:
            self._lock()
            self._size = self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another watcher have it."""
        os.close(self._file)

    def last(self, event: str) -> dict[str, Any] | None:
        """The last outcome of an event, `fix` or `failed`, and the stamp and number of its recordings then."""
        return self._last.get(event)

    def has_fix(self, event: str) -> bool:
        """Whether the event was located."""
        return self._last.get(event, {}).get("outcome") == "fix"

    def forget_failed(self) -> int:
        """Behave as if failed events had not been tried; how many there are."""
        failed = [event for event, line in self._last.items() if line["outcome"] == "failed"]
        for event in failed:
            del self._last[event]
        return len(failed)

    def append(self, line: dict[str, Any]) -> None:
        """Write a line to the disk; when that fails the file is as before, and `ClientError` is raised."""
        content = (json.dumps(line, allow_nan=False) + "\n").encode()
        try:
            written = os.pwrite(self._file, content, self._size)
            if written != len(content):
                raise OSError(f"wrote {written} of {len(content)} bytes")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise ClientError(f"cannot write to {self.path}: {error}; the event will be located again") from error
        self._size += len(content)
        self._remember(line)

    def _remember(self, line: dict[str, Any]) -> None:
        kept = {"outcome": line["outcome"], "stamp": line["stamp"], "recordings": line.get("recordings")}
        self._last[line["event"]] = kept

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ClientError(
                f"{self.path} belongs to a watcher that is running; end it, or give another --state"
            ) from error

    def _load(self) -> int:
        """The length of what is whole; a line that a crash cut short is removed."""
        content = self.path.read_bytes()
        size = content.rfind(b"\n") + 1
        for number, text in enumerate(content[:size].splitlines(), start=1):
            try:
                line = json.loads(text)
                self._remember(line)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ClientError(
                    f"{self.path}, line {number} is not one of a watcher ({error!r}); move the file away, or give "
                    "another --state"
                ) from error
        if size != len(content):
            os.ftruncate(self._file, size)
            os.fsync(self._file)
        return size


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
