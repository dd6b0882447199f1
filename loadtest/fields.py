"""Fields of a value class that come from a file: of the types that the class names, whoever wrote the file."""

import math
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from rfserve.loadtest.errors import LoadTestError

LARGEST = 2**53


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and abs(value) <= LARGEST  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return _is_number(value) and isinstance(value, int)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_mapping(value: object, of: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and of(v) for k, v in value.items())


FITS: Mapping[Any, Callable[[Any], bool]] = {
    str: _is_text,
    int: _is_count,
    float: _is_number,
    float | None: lambda value: value is None or _is_number(value),
    int | None: lambda value: value is None or _is_count(value),
    tuple[str, ...]: lambda value: isinstance(value, list | tuple) and all(map(_is_text, value)),
    Mapping[str, int]: lambda value: _is_mapping(value, _is_count),
    Mapping[str, str]: lambda value: _is_mapping(value, _is_text),
    Mapping[str, Mapping[str, float]]: lambda value: _is_mapping(value, lambda v: _is_mapping(v, _is_number)),
    Mapping[str, Any]: lambda value: _is_mapping(value, lambda _: True),
}


def check(of: type, given: Mapping[str, Any]) -> None:
    """`LoadTestError` for a value that is not what the class says; types that are not in `FITS` are not looked at."""
    for name, wanted in get_type_hints(of).items():
        if name in given and wanted in FITS and not FITS[wanted](given[name]):
            said = wanted.__name__ if isinstance(wanted, type) else wanted
            raise LoadTestError(f"{of.__name__}.{name}: got {str(given[name])[:60]!r}; expected {said}")
