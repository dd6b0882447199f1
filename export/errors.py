"""The export's part of the error tree.

RfserveError
└── ExportError
    ├── CheckpointError     a checkpoint that cannot be read, or does not fit the network
    ├── ScalingError        a scaling that contradicts itself or the network
    ├── GraphError          the ONNX file is not what its spec says
    ├── ParityError         ONNX Runtime and eager PyTorch disagree
    ├── DriftError          another precision moves fixes too far
    ├── EdgeError           a network that cannot be converted for an edge runtime
    ├── DataError           measured events that cannot be read, split or learned from
    ├── RepositoryError     the model repository cannot be read or written
    │   ├── VersionExists   a published version is immutable, and its number is never used again
    │   ├── VersionNotFound a version that is not published, or none to go back to
    │   ├── StoreUnavailable an object store that does not answer
    │   └── StoreRefused    an object store that refuses: credentials, permission, bucket, what it cannot do
    ├── ReleaseError        a promotion, rollback or retirement was refused or failed
    ├── LiveServerError     a running server cannot be reached, or does not do what it was told
    └── RegistryError       MLflow is missing, out of reach, or refuses; what was published stays published
"""

from rfserve.export.spec.errors import RfserveError


class ExportError(RfserveError):
    """An export failed; the repository is as it was."""


class CheckpointError(ExportError):
    """A checkpoint cannot be read, or does not fit the network."""


class ScalingError(ExportError):
    """A scaling contradicts itself or the network it is for."""


class GraphError(ExportError):
    """An ONNX file is not what its spec says."""


class ParityError(ExportError):
    """ONNX Runtime's outputs differ from eager PyTorch's by more than the spec allows, or those are not finite."""


class DriftError(ExportError):
    """Another precision moves fixes farther than the spec allows."""


class EdgeError(ExportError):
    """A network cannot be converted for an edge runtime."""


class DataError(ExportError):
    """Measured events cannot be read, split or learned from."""


class RepositoryError(ExportError):
    """The model repository cannot be read or written."""


class VersionExists(RepositoryError):
    """This version is published already or was once, and versions are immutable."""


class VersionNotFound(RepositoryError):
    """The version is not published, or there is none to go back to."""


class StoreUnavailable(RepositoryError):
    """The object store does not answer, or not in time."""


class StoreRefused(RepositoryError):
    """The object store answers, and refuses: the credentials, the permission, the bucket, or what was asked of it."""


class ReleaseError(ExportError):
    """A promotion, rollback or retirement was refused, or failed; the text says what is served now."""


class LiveServerError(ExportError):
    """A running server cannot be reached, or does not do what it was told."""


class RegistryError(ExportError):
    """MLflow is missing, out of reach, or refuses; what was published stays published."""
