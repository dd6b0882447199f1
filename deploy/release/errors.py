"""The release's part of the error tree, and what a release exits with.

RfserveError
└── ExportError
    └── ReleaseError         (rfserve.export.errors)
        ├── ClusterError     the Kubernetes API cannot be asked, or refuses
        ├── PodError         a pod does not do what it was told, or not in time
        ├── NotReleased      the alias did not move, and every pod serves what it served before
        ├── NotRestored      the alias did not move, and a pod may serve the version that was not released
        └── NotEverywhere    the alias moved, and a pod does not serve what it says
"""

from rfserve.export.errors import ReleaseError

DONE = 0
# argparse exits with 2.
EXIT_CODES = (
    (DONE, "the alias stands at the version, and every pod answers as it does"),
    (1, "not released: the alias did not move, and every pod serves what it served before"),
    (2, "the command line is wrong; nothing was done"),
    (3, "not released, and a pod that is named may serve the refused version: restart it"),
    (4, "the alias moved, but what is named did not follow: mend it, and run the same again"),
)


class ClusterError(ReleaseError):
    """The Kubernetes API cannot be asked, or refuses."""


class PodError(ReleaseError):
    """A pod does not do what it was told, or not in time."""


class NotReleased(ReleaseError):
    """The alias did not move, and every pod serves what it served before."""

    exit_code = 1


class NotRestored(NotReleased):
    """The alias did not move, and a pod could not be brought back: it may serve the version that was refused."""

    exit_code = 3


class NotEverywhere(ReleaseError):
    """The alias moved, and a pod does not serve what it says."""

    exit_code = 4
