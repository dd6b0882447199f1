"""Where a model repository in an object store is: `s3://bucket/prefix`, also in Triton's form with an endpoint."""

import re
from dataclasses import dataclass

from rfserve.export.errors import RepositoryError

SCHEME = "s3://"
_FORM = re.compile(
    r"s3://(?:(?:(?P<protocol>https?)://)?(?P<host>[0-9A-Za-z.-]+):(?P<port>\d{1,5})/)?"
    r"(?P<bucket>[0-9a-z][0-9a-z.-]{1,61}[0-9a-z])(?:/(?P<prefix>[0-9A-Za-z._/-]*))?"
)


@dataclass(frozen=True, kw_only=True)
class ObjectLocation:
    """A bucket, a prefix in it (empty, or without slashes at its ends), and the endpoint when the text names one."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ObjectLocation":
        """From `s3://bucket/prefix` or `s3://http://host:port/bucket/prefix`, which tritonserver takes for endpoints
        other than Amazon's; `RepositoryError` when it is neither.
        """
        found = _FORM.fullmatch(text)
        segments = [s for s in (found["prefix"] or "").split("/") if s] if found else []
        if found is None or {".", ".."} & set(segments):
            raise RepositoryError(
                f"got {text!r}; expected s3://BUCKET/PREFIX or s3://http://HOST:PORT/BUCKET/PREFIX (or https), with a "
                "bucket of 3 to 63 small letters, digits, dots and hyphens, and a prefix of letters, digits and ._-/: "
                "tritonserver reads nothing else"
            )
        endpoint = f"{found['protocol'] or 'http'}://{found['host']}:{found['port']}" if found["host"] else None
        return cls(bucket=found["bucket"], prefix="/".join(segments), endpoint=endpoint)

    def __str__(self) -> str:
        return SCHEME + "/".join(p for p in (self.endpoint, self.bucket, self.prefix) if p)

    def key(self, *parts: str | int) -> str:
        """The key of an object below the prefix."""
        return "/".join([*([self.prefix] if self.prefix else []), *map(str, parts)])
