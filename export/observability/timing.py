"""Over which times alerts look, and how often servers are asked."""

from dataclasses import dataclass

from rfserve.export.errors import ExportError

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0
_UNITS = (("d", DAY_S), ("h", HOUR_S), ("m", MINUTE_S), ("s", 1.0))


@dataclass(frozen=True, kw_only=True)
class Burn:
    """A budget is for 30 days; it burns `factor` times as fast as that allows, over a long window and still now.

    After the SRE workbook's chapter on alerting: 14.4 uses 2 % of the budget in an hour, 6 uses 5 % in six hours, and
    1 uses 10 % in three days.
    """

    factor: float
    long_s: float
    short_s: float
    for_s: float
    severity: str


BURNS = (
    Burn(factor=14.4, long_s=HOUR_S, short_s=5 * MINUTE_S, for_s=2 * MINUTE_S, severity="page"),
    Burn(factor=6, long_s=6 * HOUR_S, short_s=30 * MINUTE_S, for_s=15 * MINUTE_S, severity="page"),
    Burn(factor=1, long_s=3 * DAY_S, short_s=6 * HOUR_S, for_s=HOUR_S, severity="ticket"),
)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """`hasten` divides every time, so that a rehearsal takes minutes: at 60, an hour is a minute. For production, 1."""

    hasten: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.hasten <= 1000:
            raise ExportError(f"hasten: got {self.hasten:g}; expected 1 (production) to 1000")

    def seconds(self, production_s: float) -> float:
        """The time in whole seconds, at least one."""
        return max(1.0, round(production_s / self.hasten))

    def text(self, production_s: float) -> str:
        """The time as PromQL writes it, in the largest unit that divides it."""
        seconds = self.seconds(production_s)
        unit, size = next((u, s) for u, s in _UNITS if seconds % s == 0)
        return f"{seconds / size:.0f}{unit}"

    @property
    def scrape(self) -> str:
        """Between two scrapes, and between two evaluations: the shortest window holds several."""
        return self.text(15.0)

    @property
    def windows_s(self) -> tuple[float, ...]:
        """Every window of `BURNS`, each once."""
        return tuple(sorted({w for burn in BURNS for w in (burn.long_s, burn.short_s)}))
