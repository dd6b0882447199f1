"""One bucket of an S3-compatible object store, through boto3: bytes, files, conditions, and errors in our words.

Credentials, region and endpoint come from boto3's standard chain: the `AWS_*` variables, a profile, a role. An endpoint
that the location names goes before `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL`.
"""

import hashlib
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as boto
from botocore.config import Config

from rfserve.export import store_errors
from rfserve.export.errors import RepositoryError, StoreRefused, StoreUnavailable
from rfserve.export.object_location import ObjectLocation

TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
OWNER = "rfserve-owner"


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """The bytes of an object, and the tag that a conditional write compares."""

    content: bytes
    tag: str
    owner: str | None


class ObjectStore:
    """A bucket. Every call ends within about `timeout_s` of silence: `StoreUnavailable` then, or `StoreRefused`."""

    def __init__(self, location: ObjectLocation, timeout_s: float = TIMEOUT_S) -> None:
        if timeout_s <= 0:
            raise RepositoryError(f"got a time-out of {timeout_s:g} s for the object store; expected more than 0")
        self.location = location
        self.timeout_s = timeout_s
        self._made: Any = None
        self._conditions_hold = False

    def read(self, key: str) -> Tagged | None:
        """A small object; None when there is none."""
        with self._mapped(f"read {key}"):
            try:
                answer = self._client.get_object(Bucket=self.location.bucket, Key=key)
                with closing(answer["Body"]) as body:
                    content = body.read()
            except boto.ClientError as error:
                if store_errors.is_missing(error):
                    return None
                raise
        return Tagged(content=content, tag=answer["ETag"], owner=answer.get("Metadata", {}).get(OWNER))

    def write(self, key: str, content: bytes) -> None:
        """Replace a small object, and read it back; `RepositoryError` when it is not what was written.

        It may well be another writer's by then.
        """
        with self._mapped(f"write {key}"):
            tag = self._client.put_object(Bucket=self.location.bucket, Key=key, Body=content)["ETag"]
        back = self.read(key)
        if back is None or (back.tag == tag and back.content != content):
            raise RepositoryError(f"{self.location}: {key} reads back different from what was written; try again")

    def create(self, key: str, content: bytes, owner: str) -> bool:
        """Write a small object unless there is one; whether the one that is there now is this owner's.

        `StoreRefused` when the endpoint does not honour conditions: two publishers could overwrite each other there.
        """
        done = self._write_if(key, content, {"IfNoneMatch": "*"}, owner)
        self._require_conditions(key, content, owner if done else None)
        return done or self._is_of(key, owner)

    def replace(self, key: str, content: bytes, tag: str | None) -> bool:
        """Write a small object if it is still the one of this tag (None: if there is none); whether it was."""
        owner = uuid.uuid4().hex
        done = self._write_if(key, content, {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}, owner)
        return done or self._is_of(key, owner)

    def upload(self, key: str, file: Path) -> None:
        """Write a file of any size, large ones in parts."""
        with self._mapped(f"write {key}"), file.open("rb") as stream:
            transfer = TransferConfig(max_concurrency=4)
            self._client.upload_fileobj(stream, self.location.bucket, key, Config=transfer)

    def facts(self, key: str) -> dict[str, Any] | None:
        """SHA-256 and size in bytes of an object, of all of its bytes read back; None when there is none."""
        return self._fetch(key, None)

    def download(self, key: str, file: Path) -> dict[str, Any] | None:
        """Write an object to a file; its SHA-256 and size in bytes, or None when there is none."""
        with file.open("wb") as stream:
            return self._fetch(key, stream)

    def sizes(self, prefix: str) -> dict[str, int]:
        """The size in bytes of every object whose key begins with `prefix`, by key."""
        with self._mapped(f"list {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.location.bucket, Prefix=prefix)
            return {o["Key"]: int(o["Size"]) for page in pages for o in page.get("Contents", ())}

    def folders(self, prefix: str) -> list[str]:
        """The names directly below `prefix` (empty, or ending in a slash) that have objects below them."""
        with self._mapped(f"list {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.location.bucket, Prefix=prefix, Delimiter="/"
            )
            found = [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", ())]
        return sorted(p.removeprefix(prefix).rstrip("/") for p in found)

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""
        with self._mapped(f"delete {key}"):
            self._client.delete_object(Bucket=self.location.bucket, Key=key)

    @property
    def _client(self) -> Any:
        if self._made is None:
            # Two tries of connecting and reading, and up to 1 s between them: 2 (1/6 + 1/4) t + 1 s < t from 6 s on.
            tries = 2 if self.timeout_s >= 6 else 1
            config = Config(
                connect_timeout=self.timeout_s / 6 * (2 / tries),
                read_timeout=self.timeout_s / 4 * (2 / tries),
                retries={"mode": "standard", "total_max_attempts": tries},
                tcp_keepalive=True,
            )
            try:
                self._made = boto3.session.Session().client("s3", endpoint_url=self.location.endpoint, config=config)
            except ValueError as error:  # botocore's answer to an endpoint that is no URL
                raise StoreRefused(f"{self.location}: {error}; correct AWS_ENDPOINT_URL") from error
        return self._made

    def _fetch(self, key: str, stream: BinaryIO | None) -> dict[str, Any] | None:
        digest = hashlib.sha256()
        size = 0
        with self._mapped(f"read {key}"):
            try:
                answer = self._client.get_object(Bucket=self.location.bucket, Key=key)
                with closing(answer["Body"]) as body:
                    for chunk in body.iter_chunks(CHUNK_BYTES):
                        digest.update(chunk)
                        size += len(chunk)
                        if stream is not None:
                            stream.write(chunk)
            except boto.ClientError as error:
                if store_errors.is_missing(error):
                    return None
                raise
        return {"sha256": digest.hexdigest(), "bytes": size}

    def _write_if(self, key: str, content: bytes, condition: Mapping[str, str], owner: str) -> bool:
        try:
            with self._mapped(f"write {key} on a condition"):
                try:
                    self._client.put_object(
                        Bucket=self.location.bucket, Key=key, Body=content, Metadata={OWNER: owner}, **condition
                    )
                except boto.ClientError as error:
                    if store_errors.is_condition(error) or ("IfMatch" in condition and store_errors.is_missing(error)):
                        return False
                    raise
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{error}; it may have been written all the same: look before you do it again"
            ) from error
        return True

    def _is_of(self, key: str, owner: str) -> bool:
        # The answer to a first try may have been lost, and the second then finds the first.
        there = self.read(key)
        return there is not None and there.owner == owner

    def _require_conditions(self, key: str, content: bytes, owner: str | None) -> None:
        """Some endpoints take a condition and ignore it: try two that cannot hold, on an object that is ours."""
        if self._conditions_hold or owner is None:
            return
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"0"'}):
            if self._write_if(key, content, condition, owner):
                self.delete(key)
                raise StoreRefused(
                    f"{self.location}: the endpoint ignores the condition {next(iter(condition))} of a write, so two "
                    "publishers could overwrite each other; use one that honours it, or publish to a folder and copy"
                )
        self._conditions_hold = True

    def _mapped(self, action: str) -> AbstractContextManager[None]:
        where = f"{self.location}: cannot {action}"
        return store_errors.mapped(where, bucket=self.location.bucket, timeout_s=self.timeout_s)
