"""Kill -9 an operation on a repository before each of its changes to the disk, and look at what is left each time.

`python crash_steps.py FOLDER GRAPH` prints, for each case, how many steps there were or what was wrong. It runs on its
own, because it forks: rfserve is imported once, and every child starts with it. The steps are what Python announces to
audit hooks before it touches the file system; a file that is opened for writing counts twice, as the child dies before
it opens it, and with the file there and empty.
"""

import functools
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rfserve.export import pbtxt, release, verification
from rfserve.export.manifest import Manifest
from rfserve.export.repository import Repository, version_files
from rfserve.export.serving import Event
from rfserve.export.spec import find
from rfserve.export.spec.model import Served

SPEC = find("mel_features")
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
CHANGES |= {"shutil.copyfile", "shutil.move", "fcntl.flock"}
TEMPLATE_GRAPH = Path()
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
MOST_STEPS = 500


def cached_by_name(config_text: Callable[..., str]) -> Callable[..., str]:
    """The texts of specs that differ in their name or their batches alone."""
    made: dict[object, str] = {}

    def cached(spec: Served, name: str, version: int | None = None, *, cores: int | None = None) -> str:
        key = (spec.name, spec.max_batch_size, name, version, cores)
        if key not in made:
            made[key] = config_text(spec, name, version, cores=cores)
        return made[key]

    return cached


def publish_copy(repository: Repository) -> Manifest:
    """Publish the graph that was exported once: tracing it anew has no step in the repository that a copy has not."""
    graph = TEMPLATE_GRAPH.read_bytes()

    def fill(folder: Path) -> Callable[[int], Manifest]:
        (folder / "model.onnx").write_bytes(graph)
        files = version_files(folder)
        # Without asking git each time.
        return lambda number: Manifest(
            model=SPEC.name, version=number, weights="none", opset=SPEC.opset, files=files, git_revision=None
        )

    return repository.publish(SPEC, fill)


def promoted(repository: Repository, version: int) -> None:
    repository.change_serving(
        SPEC, lambda s: s.with_event(Event(action="promote", version=version, targets=("cpu", "gpu")))
    )


def damage_then_configure(repository: Repository) -> None:
    repository.write_configuration(replace(SPEC, max_batch_size=4))
    repository.write_configuration(SPEC)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What there is before, and what is done to it."""

    versions: int
    promotions: tuple[int, ...]
    operation: Callable[[Repository], object]
    gone: int | None = None


CASES = {
    "publish first": Case(versions=0, promotions=(), operation=publish_copy),
    "publish": Case(versions=1, promotions=(1,), operation=publish_copy),
    "promote": Case(versions=2, promotions=(1,), operation=lambda r: release.promote(r, SPEC, 2)),
    "rollback": Case(versions=2, promotions=(1, 2), operation=lambda r: release.rollback(r, SPEC)),
    "retire": Case(versions=2, promotions=(1,), operation=lambda r: release.retire(r, SPEC, 2), gone=2),
    "configure": Case(versions=1, promotions=(1,), operation=damage_then_configure),
}


def main(folder: Path, graph: Path) -> dict[str, int | str]:
    """For each case the number of steps that were killed at, or what was wrong after one of them."""
    global TEMPLATE_GRAPH  # noqa: PLW0603
    TEMPLATE_GRAPH = graph
    # The same few texts are made and read thousands of times, which is half of the time and shows nothing here.
    pbtxt.parse = functools.cache(pbtxt.parse)
    pbtxt.config_text = cached_by_name(pbtxt.config_text)
    found: dict[str, int | str] = {}
    for name, case in CASES.items():
        try:
            found[name] = steps_of(case, folder / name)
        except AssertionError as error:
            found[name] = str(error)
    return found


def steps_of(case: Case, folder: Path) -> int:
    template = Repository(folder / "template")
    template.folder.mkdir(parents=True)
    for _ in range(case.versions):
        publish_copy(template)
    for version in case.promotions:
        promoted(template, version)
    for step in range(1, MOST_STEPS):
        repository = Repository(Path(shutil.copytree(template.folder, folder / str(step))))
        killed = killed_at(step, lambda repository=repository: case.operation(repository), repository.folder)
        try:
            look(case, template, repository)
        except AssertionError as error:
            raise AssertionError(f"killed at step {step}: {error}") from error
        if not killed:
            return step - 1
        shutil.rmtree(repository.folder)
    raise AssertionError(f"more than {MOST_STEPS} steps")


def killed_at(step: int, operation: Callable[[], object], folder: Path) -> bool:
    """Run in a child that is killed at its step-th change below `folder`; False when it ended before that."""
    child = os.fork()
    if child == 0:
        try:
            die_at(step, folder)
            operation()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the operation failed in the child; its traceback stands above"
    return False


def die_at(step: int, folder: Path) -> None:
    seen = 0
    dying = False

    def count() -> bool:
        nonlocal seen
        seen += 1
        return seen == step

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal dying
        if dying:
            return
        if event in CHANGES and count():
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
            path = str(arguments[0])
            if not path.startswith(str(folder)):
                return
            if count():
                os.kill(os.getpid(), signal.SIGKILL)
            if count():
                dying = True
                os.close(os.open(path, arguments[2], 0o666))
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def look(case: Case, template: Repository, repository: Repository) -> None:
    """Nothing that was there is lost or changed, nothing half is to be seen, and the next writer succeeds."""
    before, found = template.versions(SPEC.name), repository.versions(SPEC.name)
    assert set(before) - {case.gone} <= set(found), f"lost a version: {found}"
    for version in found:
        home = repository.folder / SPEC.name / str(version)
        assert repository.manifest(SPEC.name, version).differences(home) == [], f"version {version} is not whole"
        if version in before:
            assert contents(home) == contents(template.folder / SPEC.name / str(version))
    named = {v for f in repository.folder.rglob("*.pbtxt") for v in named_versions(f)}
    assert named <= set(found), f"a configuration names {named}, there are {found}"
    if found:
        problems = verification.problems(repository, SPEC.name)
        if problems:
            repository.write_configuration(SPEC)
            problems = verification.problems(repository, SPEC.name)
        assert problems == []
    following = publish_copy(repository).version
    assert following > max([*before, *found, 0]), f"number {following} was used before"
    hidden = {f.name for f in repository.folder.rglob(".*") if f.name != ".lock"}
    assert not hidden, f"leftovers {hidden}"
    expected = repository.expected_files(SPEC)
    assert {name: repository.read_file(SPEC.name, name) for name in expected} == expected
    state = repository.serving(SPEC.name)
    assert set(repository.versions(SPEC.name)) <= state.noted("publish")
    assert state.noted("retire") == set(before) - set(repository.versions(SPEC.name))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*")}


def named_versions(config: Path) -> list[int]:
    return list(pbtxt.parse(config.read_text()).version_policy.specific.versions)


if __name__ == "__main__":
    print(json.dumps(main(*map(Path, sys.argv[1:]))))
