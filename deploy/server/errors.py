"""The server's error tree; the package stands alone, so that it installs without torch or a client.

ServerError
├── BinaryNotFound    no tritonserver on PATH, and none that pip installed
├── RepositoryError   the repository cannot be served as it is
├── SecurityError     certificates, keys or what is open cannot be as they were given
├── PortBusy          another process listens there
├── ModelLoadError    a model did not become ready; the text holds Triton's reason
└── ServerStopped     tritonserver ended by itself
"""


class ServerError(Exception):
    """Base of everything that rfserve.server raises on purpose."""


class BinaryNotFound(ServerError):
    """No usable tritonserver on this machine."""


class RepositoryError(ServerError):
    """The model repository cannot be served as it is."""


class SecurityError(ServerError):
    """Certificates, keys, or what is to be open, cannot be as they were given."""


class PortBusy(ServerError):
    """A port that was asked for is taken."""


class ModelLoadError(ServerError):
    """At least one model did not become ready."""


class ServerStopped(ServerError):
    """tritonserver ended before it was asked to."""
