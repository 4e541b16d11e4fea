"""What boto3's exceptions mean: each known failure becomes an error of its own with a remedy; none repeats a secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from core.errors import (
    ArtifactMissing,
    RemoteClockSkew,
    RemoteCorrupt,
    RemoteFailed,
    RemoteNoBucket,
    RemoteNoCredentials,
    RemoteRefused,
    RemoteSlow,
    RemoteUnconditional,
    RemoteUnreachable,
    RemoteWrongRegion,
)

_AGAIN = "Run the same command again; what is there already is not sent again."
_MAX_TEXT = 200
_KEY_ID = re.compile(r"\b[A-Z0-9]{16,}\b|[A-Za-z0-9/+=]{40,}")


class ConditionFailed(Exception):
    """A conditional write found something else than its condition says."""


@contextmanager
def recognised(where: str, key_names: str) -> Iterator[None]:
    """Turn what boto3, botocore and s3transfer raise into errors of ours; `where` is the bucket's address as it may be told.

    ConditionFailed for a write whose condition does not hold.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as error:
        raise _of_response(error, where, key_names) from None  # the response repeats the access key
    except (BotoCoreError, Boto3Error, HTTPError) as error:
        raise _of_client(error, where, key_names) from None  # a proxy's address may hold a password
    except (ConnectionError, TimeoutError) as error:
        raise _unreachable(where, type(error).__name__) from error


_HINTS = {
    "ProxyConnectionError": "Mend the proxy that HTTPS_PROXY or HTTP_PROXY names, or except the store with NO_PROXY.",
    "InvalidProxiesConfigError": "Mend the proxy that HTTPS_PROXY or HTTP_PROXY names, or except the store with NO_PROXY.",
    "SSLError": "Name the certificate to trust with AWS_CA_BUNDLE; if it is trusted, look after the line: TLS broke.",
}
_KEYLESS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "ConfigParseError",
}


def _of_client(error: Exception, where: str, key_names: str) -> Exception:
    name = type(error).__name__
    if name in _KEYLESS or "Token" in name:
        return _no_credentials(where, key_names, name)
    if name in {"ReadTimeoutError", "ConnectTimeoutError"}:
        kind, limit = ("silent", "timeout_s") if name == "ReadTimeoutError" else ("not open", "connect_timeout_s")
        slow = RemoteSlow if name == "ReadTimeoutError" else RemoteUnreachable
        return slow(
            f"the connection to {where} was {kind} > remote.{limit}",
            remedy=f"Look after the network and the store; a slow one is given more time by remote.{limit}.",
        )
    if name in _HINTS:
        return RemoteUnreachable(f"no connection to {where} opens: {name}", remedy=_HINTS[name])
    if name.startswith(("HTTPClient", "Connection", "EndpointConnection", "ProtocolError", "IncompleteRead")):
        return _unreachable(where, name)
    if name in {"FlexibleChecksumError", "ChecksumError"}:
        return _corrupt(where, name)
    return RemoteFailed(
        f"{where}: {_plain(str(error))} ({name})", remedy="Mend what it names in the profile's section remote."
    )


def _unreachable(where: str, name: str) -> RemoteUnreachable:
    return RemoteUnreachable(
        f"no connection to {where} opens, or it breaks: {name}",
        remedy=f"Bring the network or the store up, or mend remote.endpoint_url. {_AGAIN}",
    )


def _no_credentials(where: str, key_names: str, name: str) -> RemoteNoCredentials:
    return RemoteNoCredentials(
        f"no key for {where} was found: {name}, {key_names}",
        remedy="Set the variables that remote.access_key_env and remote.secret_key_env name, or give boto3 a key its own way "
        "(AWS_ACCESS_KEY_ID, ~/.aws/credentials, a role).",
    )


def _corrupt(where: str, what: str) -> RemoteCorrupt:
    return RemoteCorrupt(
        f"{where} has other bytes than were sent: {what}", remedy=f"Look after the network's memory and disks. {_AGAIN}"
    )


def _of_response(error: Any, where: str, key_names: str) -> Exception:
    told, meta = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    code, status = str(told.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    evidence = f"{code} ({status}) to {error.operation_name}"
    if code in {"PreconditionFailed", "ConditionalRequestConflict"} or status == 412:
        return ConditionFailed(evidence)
    for codes, statuses, make in _KNOWN:
        if code in codes or (code == str(status) and status in statuses):
            return make(where, evidence, key_names, error.response)
    if status in {429, 500, 502, 503, 504}:
        return _slow(where, evidence, key_names, error.response)
    text = _plain(str(told.get("Message", "")))
    return RemoteFailed(f"{where}: {evidence} {text}".rstrip(), remedy="Mend what the store names.")


def _missing(where: str, evidence: str, _keys: str, _response: Any) -> Exception:
    return ArtifactMissing(f"nothing of that name in {where}: {evidence}", remedy="Push it first, or name another.")


def _no_bucket(where: str, evidence: str, _keys: str, _response: Any) -> Exception:
    return RemoteNoBucket(f"{where}: no such bucket, {evidence}", remedy="Create the bucket, or mend remote.url.")


def _refused(where: str, evidence: str, keys: str, _response: Any) -> Exception:
    return RemoteRefused(
        f"{where} refuses: {evidence}, {keys}",
        remedy="Put a valid key where it is taken from, and allow it s3:ListBucket, s3:GetObject, s3:PutObject and "
        "s3:AbortMultipartUpload on that bucket.",
    )


def _region(where: str, evidence: str, _keys: str, response: Any) -> Exception:
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    told = response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region") or ""
    right = told if re.fullmatch(r"[a-z0-9-]{1,40}", str(told)) else ""
    return RemoteWrongRegion(
        f"{where} lies in {f'region {right}' if right else 'another region'}: {evidence}",
        remedy=f"Set remote.region{f' to {right}' if right else ' to the region of the bucket'}, and remote.endpoint_url to match.",
    )


def _clock(where: str, evidence: str, _keys: str, response: Any) -> Exception:
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    off = ""
    if date := headers.get("date"):
        seconds = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
        off = f", this clock is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
    return RemoteClockSkew(f"{where}: {evidence}{off}", remedy="Set this machine's clock: timedatectl set-ntp true")


def _slow(where: str, evidence: str, _keys: str, _response: Any) -> Exception:
    return RemoteSlow(f"{where} is overloaded: {evidence}", remedy=f"Wait, or lower remote.threads. {_AGAIN}")


def _bad_bytes(where: str, evidence: str, _keys: str, _response: Any) -> Exception:
    return _corrupt(where, evidence)


def _unsupported(where: str, evidence: str, _keys: str, _response: Any) -> Exception:
    return RemoteUnconditional(f"{where} cannot do that: {evidence}", remedy=UNCONDITIONAL_REMEDY)


UNCONDITIONAL_REMEDY = (
    "Use a store that keeps to If-None-Match and If-Match (AWS S3, MinIO, Ceph, Cloudflare R2), or update this one."
)

Make = Callable[[str, str, str, Any], Exception]
_KNOWN: tuple[tuple[frozenset[str], frozenset[int], Make], ...] = (
    (frozenset({"NoSuchBucket", "InvalidBucketName"}), frozenset(), _no_bucket),
    (frozenset({"NoSuchKey", "NotFound"}), frozenset({404}), _missing),
    (frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}), frozenset(), _clock),
    (
        frozenset(
            {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "TemporaryRedirect"}
        ),
        frozenset({301, 307}),
        _region,
    ),
    (
        frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "AllAccessDisabled", "ExpiredToken"})
        | {"InvalidToken", "InvalidClientTokenId", "AuthFailure", "InvalidSecurity", "AccountProblem", "Forbidden"},
        frozenset({401, 403}),
        _refused,
    ),
    (
        frozenset(
            {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
            | {"NoSuchUpload", "InvalidPart", "EntityTooSmall", "IncompleteBody"}
        ),
        frozenset(),
        _bad_bytes,
    ),
    (
        frozenset({"SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "RequestTimeout", "Throttling"}),
        frozenset(),
        _slow,
    ),
    (frozenset({"NotImplemented", "MethodNotAllowed"}), frozenset({501}), _unsupported),
)


def _plain(text: str) -> str:
    """Return the beginning of a stranger's text without addresses' users and without what may be a key."""
    text = re.sub(r"//[^/\s@]*@", "//", text)
    return _KEY_ID.sub("<hidden>", " ".join(text.split()))[:_MAX_TEXT]
