"""What is done with one pod: look, rehearsal, load, move; each within the pod's time-out, and each with a check."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from rfserve.export.comparison import Inputs
from rfserve.export.errors import LiveServerError
from rfserve.export.live_check import Conformance
from rfserve.export.model_repository import ModelRepository
from rfserve.export.spec.model import Served
from rfserve.release.errors import PodError
from rfserve.release.placement import Placement
from rfserve.release.pod_server import PodServer
from rfserve.release.progress import PodProgress
from rfserve.release.rehearsal import Rehearsal

# Between two looks whether a pod has fetched a version.
FETCH_POLL_S = 1.0
# What Triton says when it finds none of the versions that it is to load.
NOT_THERE = "at least one version must be available"
# Bytes of versions that are on their way to pods at once: a message is in memory three times.
SENT_AT_ONCE_BYTES = 2**29


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """Requests that the served and the coming version answer on each pod; how far a fix may move at most (m)."""

    inputs: Inputs
    limit_m: float | None = None


class Steps:
    """The steps of one release, by the version that each target is to serve. Safe to be used by several threads.

    `unrehearsed` says why there is no rehearsal, and is empty when there is one.
    """

    def __init__(
        self,
        repository: ModelRepository,
        spec: Served,
        versions: Mapping[str, int],
        *,
        rehearse: bool = True,
        shadow: Shadow | None = None,
    ) -> None:
        self.versions = versions
        self._repository, self._spec, self._shadow = repository, spec, shadow
        self._conformance = {v: Conformance(repository, spec, v) for v in set(versions.values())}
        self._rehearsals = {v: Rehearsal(repository, spec, v) for v in set(versions.values())} if rehearse else {}
        impossible = [r.impossible for r in self._rehearsals.values() if r.impossible]
        self.unrehearsed = impossible[0] if impossible else "" if rehearse else "none was asked for"

    @property
    def rehearsals_at_once(self) -> int:
        """On how many pods a version may be rehearsed at the same time."""
        # An ensemble has no bytes, and no rehearsal.
        return max(1, SENT_AT_ONCE_BYTES // max((1, *(r.size_bytes for r in self._rehearsals.values()))))

    def prepare(self) -> None:
        """Read and run once what all pods are sent, so that it takes nothing of their time."""
        for conformance in self._conformance.values():
            conformance.prepare()
        for rehearsal in self._rehearsals.values():
            if not self.unrehearsed:
                rehearsal.read()

    def look(self, progress: PodProgress, server: PodServer) -> None:
        """See what the pod serves; `PodError` when its target has no version to come."""
        progress.before = Placement.of(server, self._spec)
        progress.say(f"is a {progress.before.target} pod, and serves {progress.served_before}")
        self._version(progress)

    def rehearse(self, progress: PodProgress, server: PodServer) -> None:
        """Check the version on the pod under a name that no client asks for, and what it does to fixes."""
        version, before = self._version(progress), progress.known
        if self.unrehearsed or (version in before.versions and self._shadow is None):
            return
        rehearsal = self._rehearsals[version]
        progress.rehearsing = True
        with progress.step("rehearsal", f"rehearsed version {version}"), rehearsal.on(server, before):
            progress.checked = self._conformance[version].check(server, served_as=rehearsal.name)
            if self._shadow is not None:
                progress.comparison = rehearsal.shadow(server, before, self._shadow.inputs)
        progress.rehearsing = False
        if progress.comparison is not None and self._shadow is not None:
            self._judge(progress, progress.comparison.drift.position_worst_m, self._shadow.limit_m)

    @staticmethod
    def _judge(progress: PodProgress, worst_m: float, limit_m: float | None) -> None:
        allowed = "" if limit_m is None else f", allowed {limit_m:g} m"
        moved = f"fixes move by up to {worst_m:.2f} m{allowed}"
        progress.say(moved)
        if limit_m is not None and not worst_m <= limit_m:
            raise PodError(f"{progress.pod.name}: {moved}; --shadow lists the events, --shift-limit-m allows more")

    def load(self, progress: PodProgress, server: PodServer) -> None:
        """Load the version out of the pod's own repository, beside what the pod serves."""
        version = self._version(progress)
        progress.touched = True
        with progress.step("load", f"loaded version {version} beside {progress.served_before}"):
            self._give(progress, server, version, *progress.known.versions)
            progress.checked = self._conformance[version].check(server, pinned=True)

    def restore(self, progress: PodProgress, server: PodServer) -> None:
        """Serve what was served when the release began, and forget what was rehearsed."""
        if progress.rehearsing:
            # The rehearsal could not do it: it was out of time, or interrupted.
            with suppress(LiveServerError):
                server.unload(self._rehearsals[self._version(progress)].name)
                progress.rehearsing = False
        if progress.touched:
            progress.restored = False
            progress.known.restore(server)
            progress.restored = True
            progress.say(f"serves {progress.served_before} again")

    def confirm(self, progress: PodProgress, server: PodServer) -> None:
        """See that the pod still has the version."""
        version = self._version(progress)
        if not server.is_ready(self._spec.name, version):
            raise PodError(f"{progress.pod.name}: {server.url} has lost {self._spec.name}/{version} since it loaded it")

    def settle(self, progress: PodProgress, server: PodServer) -> None:
        """Serve the version alone.

        Where the pod reads the very repository that the alias moved in, Triton loads it once more, as its configuration
        there changed; it answers meanwhile.
        """
        progress.problem = ""
        if progress.before is None:
            progress.before = Placement.of(server, self._spec)
        version = self._version(progress)
        with progress.step("move", f"serves version {version} alone"):
            self._give(progress, server, version)
            progress.checked = self._conformance[version].check(server)

    def _give(self, progress: PodProgress, server: PodServer, version: int, *others: int) -> None:
        """Have the pod serve these versions; one that its repository lacks may be on its way there."""
        model, waits = self._spec.name, False
        while True:
            try:
                progress.known.give(server, self._repository, {version, *others})
            except LiveServerError as error:
                if NOT_THERE not in str(error):
                    raise
            if version in (served := server.served_versions(model)):
                break
            if server.left_s < 2 * FETCH_POLL_S:
                raise PodError(
                    f"{progress.pod.name}: {server.url} did not load {model}/{version}, and serves {served or 'none'}: "
                    "its copy of the repository does not have that version; see what brings it there, or give a longer "
                    "--pod-timeout-s"
                )
            if not waits:
                progress.say(f"waits for version {version} to be in its copy of the repository")
            waits = True
            time.sleep(FETCH_POLL_S)
        server.wait_until_ready(model, version)

    def _version(self, progress: PodProgress) -> int:
        target = progress.known.target
        if target not in self.versions:
            raise PodError(
                f"{progress.pod.name}: it serves the {target} configuration of {self._spec.name}, and this is for "
                f"{' and '.join(self.versions)}; give --target {target}, or leave it out"
            )
        return self.versions[target]
