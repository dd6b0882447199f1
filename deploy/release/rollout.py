"""A version on every pod of a fleet, then the alias, or everything as it was."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from rfserve.export import alias
from rfserve.export.errors import ExportError
from rfserve.export.model_repository import ModelRepository
from rfserve.export.progress import Report
from rfserve.export.serving import Serving
from rfserve.export.spec.model import TARGETS, Served
from rfserve.release.alias_move import UNMOVED, AliasMove
from rfserve.release.errors import ClusterError, NotEverywhere, NotReleased, NotRestored, PodError
from rfserve.release.pod_server import Access, PodServer
from rfserve.release.pods import Fleet, Pod, Sighting
from rfserve.release.progress import PodProgress
from rfserve.release.steps import Shadow, Steps

MOST_AT_ONCE = 16
START_POLL_S = 0.5

Step = Callable[[PodProgress, PodServer], None]


class Rollout:
    """One release of one model to one fleet. `pods` is what became of each pod, in the order in which they were seen.

    Each pod has the access's time-out for each of its steps: look, rehearsal, load, move.
    """

    def __init__(
        self, repository: ModelRepository, spec: Served, fleet: Fleet, access: Access, *, report: Report
    ) -> None:
        self.repository, self.spec = repository, spec
        self.pods: dict[Pod, PodProgress] = {}
        self.alias_moved = False
        self._fleet, self._access, self._report = fleet, access, report

    def release(
        self,
        version: int | None,
        targets: Sequence[str] | None = None,
        *,
        force: bool = False,
        rehearse: bool = True,
        shadow: Shadow | None = None,
    ) -> dict[str, int]:
        """Have every pod serve a version, and then the alias stand at it; the version of each target.

        Without a `version`, every pod is brought to what the alias says. The version is verified, and every pod looked
        at. It is rehearsed on all pods at once, where no client meets it; then all load it beside what they serve, and
        Triton (2.51) has the newer of the two answer who names none. Each time its conformance set is put to each pod.
        Pods that came meanwhile do the same. Then the alias moves, and every pod drops what it served before. Pods
        that read the alias before it moved are looked for at the end.

        `NotReleased` when anything fails before the alias moves: every pod then serves what it served before, or it is
        `NotRestored`, which names those that may not. `NotEverywhere` when the alias moved and a pod did not follow.
        """
        before = self.repository.serving(self.spec.name)
        versions = self._wanted(before, version, targets, force=force)
        steps = Steps(self.repository, self.spec, versions, rehearse=rehearse, shadow=shadow)
        move = AliasMove(self.repository, self.spec, before, versions)
        if steps.unrehearsed and shadow is not None:
            raise NotReleased(
                f"{self.spec.name}: fixes are compared in the rehearsal, and there is none: {steps.unrehearsed}; "
                "nothing was changed"
            )
        if steps.unrehearsed:
            self._report(f"no rehearsal: {steps.unrehearsed}")
        try:
            self._bring_in(steps)
            if version is not None:
                move.make()
        except BaseException as error:
            # Whatever it was: no pod is left between two versions.
            raise self._gone_back(error, steps, move.state) from error
        self.alias_moved = version is not None
        self._report(f"the alias of {self.spec.name} stands at {_said(versions)}")
        self._settle(steps)
        return versions

    def rollback(self, targets: Sequence[str] | None = None) -> dict[str, int]:
        """Have every pod serve what was served before the latest change; the version of each target.

        The alias moves first, so that pods that start come up with it, and then all pods at once. One that fails keeps
        none of the others: `NotEverywhere` names it.
        """
        versions = alias.previous(self.repository, self.spec, self.repository.serving(self.spec.name), targets)
        alias.verify(self.repository, self.spec, set(versions.values()))

        def change(state: Serving) -> Serving:
            if alias.previous(self.repository, self.spec, state, targets) != versions:
                raise NotReleased(f"{self.spec.name}: somebody moved the alias meanwhile; look at its history")
            return alias.moved(state, "rollback", versions)

        self.repository.change_serving(self.spec, change)
        self.alias_moved = True
        self._report(f"the alias of {self.spec.name} moved back to {_said(versions)}")
        self._settle(Steps(self.repository, self.spec, versions, rehearse=False))
        return versions

    def rehearse(self, version: int, shadow: Shadow | None = None) -> None:
        """Only the rehearsal, on every pod: nothing that clients are answered changes. `NotReleased` when one fails."""
        alias.verify(self.repository, self.spec, {version})
        steps = Steps(self.repository, self.spec, dict.fromkeys(TARGETS, version), shadow=shadow)
        if steps.unrehearsed:
            raise NotReleased(f"{self.spec.name}/{version} cannot be rehearsed: {steps.unrehearsed}")
        try:
            new = self._first_look()
            self._each(new, steps.look)
            steps.prepare()
            self._each(new, steps.rehearse, at_once=steps.rehearsals_at_once)
        except (ExportError, KeyboardInterrupt) as error:
            self._restore(steps)
            raise NotReleased(f"{self.spec.name}/{version}: {str(error) or 'interrupted'}; nothing changed") from error

    def _wanted(
        self, state: Serving, version: int | None, targets: Sequence[str] | None, *, force: bool
    ) -> dict[str, int]:
        if version is not None:
            alias.verify(self.repository, self.spec, {version})
            chosen = alias.suited(self.repository, self.spec, version, targets, force=force)
            return dict.fromkeys(chosen, version)
        precisions = self.repository.precisions(self.spec.name)
        served = {t: state.served(t, precisions) for t in targets or TARGETS}
        found = {target: number for target, number in served.items() if number is not None}
        if not found:
            raise NotReleased(
                f"{self.spec.name} has no version in {self.repository.location}: `rfserve-export write "
                f"{self.spec.name}`; nothing was changed"
            )
        alias.verify(self.repository, self.spec, set(found.values()))
        return found

    def _bring_in(self, steps: Steps) -> None:
        """Load the version on every pod, also on those that come while others load."""
        new = self._first_look()
        while new:
            self._each(new, steps.look)
            steps.prepare()
            self._each(new, steps.rehearse, at_once=steps.rehearsals_at_once)
            self._each(new, steps.load)
            new = self._new(self._look_again())
        # Some have waited for others: the alias moves when all of them still stand.
        self._each(list(self.pods.values()), steps.confirm)

    def _settle(self, steps: Steps) -> None:
        """After the alias: every pod serves what it says and nothing else, also one that read it before it moved."""
        said = f"the alias of {self.spec.name} stands at {_said(steps.versions)}, but"
        again = "mend or restart what is named, and run the same again"
        try:
            self._each(list(self.pods.values()), steps.settle, go_on=True)
            starting = self._settle_late(steps)
        except KeyboardInterrupt as error:
            raise NotEverywhere(f"{said} the release was interrupted before every pod was seen to follow") from error
        except ExportError as error:
            raise NotEverywhere(f"{said} pods that started meanwhile could not be looked for: {error}") from error
        for pod in starting:
            self._report(f"{pod}: still starts; it reads the alias when it does, and was not checked")
        problems = [p.problem for p in self.pods.values() if p.problem]
        if problems:
            raise NotEverywhere(
                f"{said} {len(problems)} of {len(self.pods)} pods do not serve it: {'; '.join(problems)}; {again}"
            )
        if not self.pods:
            raise NotEverywhere(f"{said} there is no pod that takes requests")

    def _settle_late(self, steps: Steps) -> tuple[Pod, ...]:
        """Settle pods that came late or came back; those that still start when their time is over."""
        deadline = time.monotonic() + self._access.timeout_s
        starting: tuple[Pod, ...] = ()
        while True:
            sighting = self._look_again()
            back = [self.pods[p] for p in starting if p in self.pods and p in sighting.ready]
            self._each([*back, *self._new(sighting)], steps.settle, go_on=True)
            starting = sighting.starting
            if not starting or time.monotonic() > deadline:
                return starting
            time.sleep(START_POLL_S)

    def _first_look(self) -> list[PodProgress]:
        new = self._new(self._fleet.look())
        if not new:
            raise PodError("there is no pod that takes requests")
        return new

    def _new(self, sighting: Sighting) -> list[PodProgress]:
        """The pods that were not there before."""
        new = [PodProgress(pod=pod, report=self._report) for pod in sighting.ready if pod not in self.pods]
        self.pods |= {progress.pod: progress for progress in new}
        return new

    def _look_again(self) -> Sighting:
        """Where pods are that are not there any more, or end, they are no part of it from now on."""
        sighting = self._fleet.look()
        for pod in [p for p in self.pods if not sighting.has(p)]:
            self.pods.pop(pod).say("is gone, and left out")
        return sighting

    def _each(
        self, pods: Sequence[PodProgress], step: Step, *, go_on: bool = False, at_once: int = MOST_AT_ONCE
    ) -> None:
        """Do a step on pods at once. `PodError` with what all said that failed, those left out that are gone.

        With `go_on`, what went wrong is only noted.
        """

        def one(progress: PodProgress) -> None:
            try:
                with self._access.open(progress.pod) as server:
                    step(progress, server)
            except ExportError as error:
                progress.problem = str(error)
                progress.say(f"failed: {error}")

        # Some were left out since the caller has listed them.
        pods = [p for p in pods if p.pod in self.pods]
        pool = ThreadPoolExecutor(max_workers=min(at_once, MOST_AT_ONCE))
        try:
            list(pool.map(one, pods))
        finally:
            # After an interruption there is something under way.
            self._access.interrupt()
            pool.shutdown(cancel_futures=True)
        if not go_on and any(p.problem for p in pods):
            with suppress(ClusterError):
                self._look_again()
            left = [p.problem for p in pods if p.problem and p.pod in self.pods]
            if left:
                raise PodError("; ".join(left))

    def _restore(self, steps: Steps) -> None:
        """Have every pod that has something of the release lose it; what went wrong before stays noted."""
        changed = [p for p in self.pods.values() if p.touched or p.rehearsing]
        reasons = [p.problem for p in changed]
        self._each(changed, steps.restore, go_on=True)
        for progress, reason in zip(changed, reasons, strict=True):
            progress.problem = "; ".join(filter(None, dict.fromkeys((reason, progress.problem))))

    def _gone_back(self, error: BaseException, steps: Steps, alias_state: str) -> NotReleased:
        """Bring every pod that was touched back; the error to raise, which says how that went."""
        self._restore(steps)
        touched = [p for p in self.pods.values() if p.touched]
        left = [p for p in touched if not p.restored]
        with suppress(ExportError):
            self._look_again()
            left = [p for p in left if p.pod in self.pods]
        reason = str(error) or "interrupted"
        begun = f"{self.spec.name} was not released: {reason}; the alias {alias_state}, and every"
        if left or alias_state != UNMOVED:
            named = ", ".join(f"{p.pod} (it served {p.served_before})" for p in left) or "the alias"
            return NotRestored(
                f"{begun} other pod serves what it served before, but {named} could not be brought back: a pod that "
                "starts again serves what the alias says"
            )
        return NotReleased(f"{begun} pod serves what it served before")


def _said(versions: Mapping[str, int]) -> str:
    return ", ".join(f"version {version} for {target}" for target, version in versions.items())
