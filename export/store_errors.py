"""What boto3 raises, in this project's words: what went wrong, and what to do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto

from rfserve.export.errors import RepositoryError, StoreRefused, StoreUnavailable

_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidClientTokenId",
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
    "UnrecognizedClientException",
}
_FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403"}
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"}
_MISSING = {"NoSuchKey", "404", "NotFound"}
# 409: another conditional write of the same object is under way.
_CONDITION = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_KINDS = (
    ({"NoSuchBucket"}, "the endpoint has no bucket {bucket!r}; create it, or correct the location"),
    (
        _CREDENTIALS,
        "the endpoint does not accept the credentials ({said}); correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "or the profile",
    ),
    (_ELSEWHERE, "the bucket is in another region, or elsewhere ({said}); correct AWS_REGION, or the endpoint"),
    (
        _FORBIDDEN,
        "these credentials are not permitted to ({said}); reading needs s3:ListBucket and s3:GetObject, publishing "
        "also s3:PutObject and s3:DeleteObject",
    ),
    ({"NotImplemented"}, "the endpoint cannot do that ({said}); use one that can"),
)


@contextmanager
def mapped(where: str, *, bucket: str, timeout_s: float) -> Iterator[None]:
    """Raise `StoreUnavailable` for silence and failure, `StoreRefused` for a refusal; the text begins with `where`."""
    begun = time.monotonic()
    try:
        yield
    except boto.ClientError as error:
        raise _refusal(where, bucket, error) from error
    except (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.ProfileNotFound,
        boto.TokenRetrievalError,
    ) as error:
        raise StoreRefused(
            f"{where}: {error}; give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role that boto3 finds"
        ) from error
    except boto.FlexibleChecksumError as error:
        raise RepositoryError(f"{where}: the bytes are not those of their checksum: {error}") from error
    except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError) as error:
        raise StoreUnavailable(
            f"{where}: {error} (after {time.monotonic() - begun:.1f} s; the time-out is {timeout_s:g} s); see that the "
            "endpoint is the right one and runs"
        ) from error
    except boto.BotoCoreError as error:
        raise StoreRefused(f"{where}: {error}") from error


def is_missing(error: boto.ClientError) -> bool:
    """Whether there is no such object."""
    return _code(error) in _MISSING


def is_condition(error: boto.ClientError) -> bool:
    """Whether the condition of a write does not hold."""
    return _code(error) in _CONDITION


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _refusal(where: str, bucket: str, error: boto.ClientError) -> RepositoryError:
    said = ": ".join(p for p in (_code(error), error.response.get("Error", {}).get("Message")) if p)
    for codes, text in _KINDS:
        if _code(error) in codes:
            return StoreRefused(f"{where}: {text.format(bucket=bucket, said=said)}")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if status >= 500 or _code(error) == "SlowDown":
        return StoreUnavailable(f"{where}: the endpoint failed ({said}); try again")
    return StoreRefused(f"{where}: the endpoint refused ({said})")
