"""The error tree that export, clients and load test share.

RfserveError
├── SpecError            a declaration contradicts itself
├── ModelNotFound        a name that no served model has
├── TensorError          a tensor that does not fit its declaration
├── rfserve.export.errors.ExportError …
├── rfserve.clients.errors.ClientError …
└── rfserve.loadtest.errors.LoadTestError …
"""


class RfserveError(Exception):
    """Base of every error that rfserve raises on purpose; its text says what came, what was expected, what to do."""


class SpecError(RfserveError):
    """A spec contradicts itself."""


class ModelNotFound(RfserveError):
    """No served model has this name."""


class TensorError(RfserveError):
    """A tensor does not fit the spec of the model it was made for."""
