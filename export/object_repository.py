"""A Triton model repository in an S3-compatible object store.

An object store has no rename and no lock. What takes their place:

- A version is published when its `manifest.json` is there. That one is written last, after every other object was
  uploaded and all of its bytes read back and compared.
- The configuration on S3 always names the version to serve, and is changed after the manifest. While nothing is
  published it names version 0, which never exists; it is there before the first object of the first version. So no
  tritonserver, whatever it is started with, loads a version that is half there.
- A number is taken by a conditional write of `<model>/.claims/<number>`, which one publisher alone can win. The claim
  says what is published under it (the SHA-256 of all hashes) and by which process, and goes when all is finished.
- A publication that was killed or lost its endpoint leaves its claim. Publishing the same content again goes on under
  it, and uploads only what is missing or different. Other content takes the next number, and so does the same content
  while the claim's process is at work beside this one. Of a process on another machine nobody can say that: the claim
  is taken over, both upload the same bytes to the same keys, and the one whose claim it is no more, or whose
  conditional write of the manifest comes second, takes the next number.
- Two writers of `serving.json` each write only on the tag that they have read. The configuration follows from it and
  from the manifests; whoever wrote it looks at both once more afterwards, until what is written is what follows.

An upload in parts that was killed leaves parts that only the store's own rule for incomplete uploads clears.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rfserve.export import pbtxt, serving
from rfserve.export.claim import Claim, content_of, publishing
from rfserve.export.errors import ReleaseError, RepositoryError, VersionNotFound
from rfserve.export.manifest import FILE_NAME, Manifest
from rfserve.export.model_repository import Change, Fill, model_files
from rfserve.export.object_reader import CLAIMS, NO_VERSION, ObjectReader, disk_errors, is_file, scratch_folder
from rfserve.export.serving import Event, Serving
from rfserve.export.spec.model import Served


class ObjectRepository(ObjectReader):
    """The prefix that `tritonserver --model-repository=s3://…` reads."""

    def change_serving(self, spec: Served, change: Change) -> Serving:
        """Replace what is promoted by what `change` makes of it, and write the configuration that follows.

        `change` is asked again when another writer was faster. A crash before the configuration is written leaves one
        that `check` names and `write_configuration` mends; so does a store that fails by then, and the error says it.
        """
        if not self.versions(spec.name):
            raise VersionNotFound(f"{spec.name} has no version in {self.location}: `rfserve-export write {spec.name}`")

        def checked(state: Serving) -> Serving:
            after = change(state)
            # Refuses, before anything is written, to serve a version that is not published.
            self._policies(spec.name, after)
            return after

        after = self._record(spec.name, checked)
        # Whoever takes the change back puts this text before their own: it must stay true.
        with _finishing(
            f"{spec.name}: the change was recorded in {serving.FILE_NAME}",
            left="the configuration that follows from that file",
            mending="writes it; servers that run take it when they load next",
        ):
            self._settle(spec)
        return after

    def publish(self, spec: Served, fill: Fill, version: int | None = None) -> Manifest:
        """Publish a version (default: the next one) and the configuration of its model.

        `fill` writes the version's files into the local folder it is given, and returns what makes the manifest once
        the version number is known. `VersionExists` when the version is published already or its number was retired,
        `StoreUnavailable` or `StoreRefused` when the endpoint does not do its part; the same publication again goes on
        where this one ended.
        """
        if version is not None and version < 1:
            raise RepositoryError(f"{spec.name}: got version {version}; expected 1 or more")
        if version is not None and version not in self._contents(spec.name).claimed:
            self._refuse_number(spec.name, version, self.serving(spec.name))
        with scratch_folder() as folder:
            with disk_errors():
                manifest_for = fill(folder)
            content = content_of(manifest_for(NO_VERSION))
            with publishing() as owner:
                manifest = self._publish(spec, folder, manifest_for, Claim(content=content, owner=owner), version)
            with _finishing(f"{spec.name}/{manifest.version} is published"):
                self._finish(spec)
            return manifest

    def _publish(
        self, spec: Served, folder: Path, manifest_for: Callable[[int], Manifest], mine: Claim, version: int | None
    ) -> Manifest:
        lost: set[int] = set()
        while True:
            number, is_published = self._claim(spec.name, mine, version, lost)
            if is_published:
                # Its publisher ended between the manifest and the end.
                return self.manifest(spec.name, number)
            self._bar_the_unpublished(spec)
            manifest = manifest_for(number)
            self._upload(folder, manifest)
            if self._seal(mine, manifest):
                return manifest
            lost.add(number)

    def retire(self, spec: Served, version: int) -> Serving:
        """Take a version away for good; its number is never used again.

        Its manifest goes first, which takes it from everybody's sight; its objects go after that. What a publication
        that was given up has left is cleared as well. `ReleaseError` when a target serves it, it is the only one, or it
        is being published; `VersionNotFound` when there is nothing of it.
        """
        contents = self._contents(spec.name)
        if version not in contents.published and version in contents.numbers:
            return self._clear_unfinished(spec, version)
        self.require_published(spec.name, version)
        precisions = self.precisions(spec.name)
        self._refuse_retiring(spec.name, version, self.serving(spec.name), precisions)
        key = self._at.key(spec.name, version, FILE_NAME)
        manifest = self._store.read(key)
        self._store.delete(key)

        def retired(state: Serving) -> Serving:
            # Promoted between the look above and the end of its manifest.
            self._refuse_retiring(spec.name, version, state, precisions)
            return state.with_event(Event(action="retire", version=version, note=precisions[version]))

        with _finishing(f"{spec.name}/{version} is retired", command=f"retire {spec.name} {version}"):
            try:
                after = self._record(spec.name, retired)
            except ReleaseError:
                if manifest is not None:
                    self._store.write(key, manifest.content)
                raise
            self._clear(spec.name, version)
            self._settle(spec)
        return after

    def write_configuration(self, spec: Served) -> None:
        """Write the files of a model that no version owns: `config.pbtxt`, its variants, warm-up data.

        Also finishes what a writer that was killed after the manifest left undone.
        """
        self._finish(spec)

    def _claim(self, model: str, mine: Claim, version: int | None, lost: set[int]) -> tuple[int, bool]:
        """The number to publish under, and whether it is published already.

        That of a publication of the same content that was given up, if it is the newest; else `version` or the next
        one. `lost` are numbers that went to another publisher.
        """
        while True:
            contents = self._contents(model)
            newest = max(contents.published, default=0)
            for number in [version] if version else [n for n in contents.claimed if n >= newest]:
                there = self._read_claim(model, number)
                if there is None:
                    continue
                if there.content == mine.content and not there.is_held and number not in lost:
                    self._store.write(self._at.key(model, CLAIMS, number), mine.to_json().encode())
                    return number, number in contents.published
                if version and version not in contents.published:
                    raise RepositoryError(
                        f"{model}/{version} is claimed for {'this' if there.content == mine.content else 'other'} "
                        f"content by {there.describe()}; leave --version out to get another number, or `rfserve-export "
                        f"retire {model} {version}` if that publication was given up"
                    )
            state = self.serving(model)
            if version:
                self._refuse_number(model, version, state)
            number = version or self.next_number(model, state)
            key = self._at.key(model, CLAIMS, number)
            if self._store.create(key, mine.to_json().encode(), mine.owner):
                if number not in self.versions(model):
                    return number, False
                # Its publisher finished, and took its own claim away, between the listing and this claim.
                self._store.delete(key)

    def _bar_the_unpublished(self, spec: Served) -> None:
        """See that every configuration names its version before there is one that is not whole.

        Triton makes up a configuration for a folder without, and takes the newest version where none is named.
        """
        texts = self.read_configuration(spec).values()
        if not all(text is not None and pbtxt.names_versions(text) for text in texts):
            self._settle(spec)

    def _upload(self, folder: Path, manifest: Manifest) -> None:
        """Upload what is missing or different, the graph last, and read all of it back."""
        where = f"{manifest.model}/{manifest.version}"
        base = self._at.key(manifest.model, manifest.version, "")
        there = {key.removeprefix(base): size for key, size in self._store.sizes(base).items()}
        foreign = sorted(name for name in there if is_file(name) and name not in {FILE_NAME, *manifest.files})
        if foreign:
            raise RepositoryError(
                f"{where} holds objects that are not of this version: {', '.join(foreign)}; remove them, or leave "
                "--version out"
            )
        for name in sorted(manifest.files, key=lambda n: (n.endswith(".onnx"), n)):
            facts = dict(manifest.files[name])
            if there.get(name) == facts["bytes"] and self._store.facts(base + name) == facts:
                continue
            self._store.upload(base + name, folder / name)
            got = self._store.facts(base + name)
            if got != facts:
                raise RepositoryError(
                    f"{where}: {name} reads back different: got {got}, wrote {facts}; nothing was published, the same "
                    "command again goes on"
                )

    def _seal(self, mine: Claim, manifest: Manifest) -> bool:
        """Write the manifest, which publishes the version; False when another publisher has the number now."""
        # A damaged history must be found before, not after.
        self.serving(manifest.model)
        claim = self._read_claim(manifest.model, manifest.version)
        if claim is None or claim.owner != mine.owner:
            return False
        key = self._at.key(manifest.model, manifest.version, FILE_NAME)
        content = manifest.to_json().encode()
        if not self._store.create(key, content, mine.owner):
            return False
        back = self._store.read(key)
        if back is None or back.content != content:
            self._store.delete(key)
            raise RepositoryError(
                f"{manifest.model}/{manifest.version}: {FILE_NAME} reads back different; nothing was published, the "
                "same command again goes on"
            )
        return True

    def _finish(self, spec: Served) -> None:
        """Note publications in the history, have the configuration follow, and give up the claims that are done."""
        self._record(spec.name, lambda state: state.with_missed(self._unnoted(spec.name, state)))
        self._settle(spec)
        contents = self._contents(spec.name)
        for number in set(contents.claimed) & set(contents.published):
            self._store.delete(self._at.key(spec.name, CLAIMS, number))

    def _record(self, model: str, change: Change) -> Serving:
        """Write what `change` makes of the history, asked again as long as other writers are faster."""
        while True:
            state, tag = self._serving(model)
            after = change(state)
            if after == state or self._store.replace(
                self._at.key(model, serving.FILE_NAME), after.to_json().encode(), tag
            ):
                return after

    def _followed(self, spec: Served) -> tuple[Served, Mapping[str, int | None], Mapping[str, int]]:
        """What the configuration follows from: placements, the version of each target, and its machines' cores."""
        state = self.serving(spec.name)
        return state.placing(spec), self._policies(spec.name, state), state.cores

    def _settle(self, spec: Served) -> None:
        """Write the configuration that follows from what is published and promoted, until that has not changed."""
        written: tuple[Served, Mapping[str, int | None], Mapping[str, int]] | None = None
        while written != (now := self._followed(spec)):
            written = now
            files = model_files(*now)
            sizes = self._contents(spec.name).sizes
            # Warm-up data first, which the configuration names; the plain one, which names a model as one, last.
            for name in sorted(files, key=lambda n: (n.endswith(".pbtxt"), n == "config.pbtxt", n)):
                key = self._at.key(spec.name, name)
                there = self._store.read(key) if sizes.get(name) == len(files[name]) else None
                if there is None or there.content != files[name]:
                    self._store.write(key, files[name])

    def _clear_unfinished(self, spec: Served, version: int) -> Serving:
        claim = self._read_claim(spec.name, version)
        if claim is not None and claim.is_held:
            raise ReleaseError(f"{spec.name}/{version} is being published by {claim.describe()}; end that first")
        after = self.serving(spec.name)
        if version in after.noted("publish") - after.noted("retire"):
            # It was published, and whoever retired it did not live to note it.
            event = Event(action="retire", version=version)
            after = self._record(spec.name, lambda state: state.with_event(event))
        self._clear(spec.name, version)
        return after

    def _clear(self, model: str, version: int) -> None:
        self._store.delete(self._at.key(model, CLAIMS, version))
        for key in self._store.sizes(self._at.key(model, version, "")):
            self._store.delete(key)


@contextmanager
def _finishing(
    done: str,
    *,
    left: str = "its history and configuration",
    command: str = "configure",
    mending: str = "finishes the job",
) -> Iterator[None]:
    """What cannot be taken back is done: an error here must say so."""
    try:
        yield
    except RepositoryError as error:
        raise type(error)(
            f"{done}, but {left} could not be written: {error}; mend that, and `rfserve-export {command}` {mending}"
        ) from error
