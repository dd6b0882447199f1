"""A model repository in an object store, as tritonserver takes it."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from rfserve.server.errors import RepositoryError

SCHEME = "s3://"
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_FORM = re.compile(r"s3://((https?://)?[0-9A-Za-z.-]+:\d{1,5}/)?[0-9a-z][0-9a-z.-]{1,61}[0-9a-z](/[0-9A-Za-z._/-]*)?")


def triton_location(location: str, environment: Mapping[str, str]) -> str:
    """`s3://bucket/prefix` with the endpoint of the environment: tritonserver (2.51) does not read those variables.

    A location that names its endpoint stays as it is; `RepositoryError` when tritonserver would not understand it.
    """
    found = _FORM.fullmatch(location)
    if found is None:
        raise RepositoryError(
            f"repository: got {location!r}; expected s3://BUCKET/PREFIX or s3://http://HOST:PORT/BUCKET/PREFIX (or "
            "https), of letters, digits and ._-/"
        )
    endpoint = next((environment[name] for name in ENDPOINT_VARIABLES if environment.get(name)), None)
    if found[1] or endpoint is None:
        return location
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
        raise RepositoryError(f"{' or '.join(ENDPOINT_VARIABLES)}: got {endpoint!r}; expected http(s)://HOST:PORT")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return f"{SCHEME}{parts.scheme}://{parts.hostname}:{port}/{location.removeprefix(SCHEME)}"


def endpoint_address(triton: str) -> tuple[str, int] | None:
    """Host and port of the endpoint in a location; None for Amazon's own."""
    found = re.match(r"s3://(?:https?://)?([0-9A-Za-z.-]+):(\d+)/", triton)
    return (found[1], int(found[2])) if found else None
