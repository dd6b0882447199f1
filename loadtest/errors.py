"""The load test's part of the error tree.

RfserveError
└── LoadTestError     a run that cannot be made or judged
"""

from rfserve.export.spec.errors import RfserveError


class LoadTestError(RfserveError):
    """A run cannot be made or judged."""
