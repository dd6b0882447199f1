"""What arrives in the folder and is never located: loose recordings, and what comes to an event after its fix."""

import time
from collections.abc import Callable
from pathlib import Path

from rfserve.clients.watch import folder
from rfserve.clients.watch.folder import Arrival, Rules
from rfserve.clients.watch.journal import Journal


class Leftovers:
    """Looks for them every `patience_s`, as it looks at everything; each event, and loose recordings, are told once.

    A recording that comes before its collection is loose for a while: only one that two looks in a row find is told.
    """

    def __init__(
        self, place: Path, rules: Rules, journal: Journal, *, patience_s: float, warn: Callable[[str], None]
    ) -> None:
        self._place, self._rules, self._journal, self._warn = place, rules, journal, warn
        self._patience_s = patience_s
        self._due = 0.0
        self._loose: set[Path] | None = set()
        self._told: set[str] = set()

    def look(self) -> None:
        """Look, when it is time to; `ClientError` when the folder cannot be read."""
        if (now := time.monotonic()) < self._due:
            return
        self._due = now + self._patience_s
        arrivals = folder.scan(self._place, self._rules)
        for arrival in arrivals:
            if arrival.name not in self._told and (late := self._late(arrival)):
                self._told.add(arrival.name)
                self._warn(
                    f"{arrival.name} was located without {late} of its recordings, which came later; locate it with "
                    "`rfserve-client locate`, and say --least-receivers, so that events wait for all"
                )
        if self._loose is None:
            return
        found = set(folder.loose(self._place, self._rules, arrivals, self._journal.has_fix))
        seen = found if self._patience_s == 0 else found & self._loose
        for path in sorted(seen)[:1]:
            name = path.relative_to(self._place)
            self._warn(f"{name} and the like are no events; give each event a subfolder, or say --group")
        self._loose = None if seen else found

    def _late(self, arrival: Arrival) -> int:
        line = self._journal.last(arrival.name)
        if line is None or line["outcome"] != "fix" or arrival.missing:
            return 0
        # Lines of earlier versions do not say it.
        return max(0, len(arrival.recordings) - int(line["recordings"] or len(arrival.recordings)))
