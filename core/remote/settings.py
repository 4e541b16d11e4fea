"""The profile's section `remote`: which bucket, how it is reached, and how hard it may be used. All of it is operational."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from core.field_types import BucketUrl, EndpointUrl, VariableName
from core.section import Operational, Section


class RemoteConfig(Section):
    """Where the artifact tree is kept beside this machine."""

    url: Annotated[BucketUrl | None, Operational] = Field(
        default=None, description="s3://bucket/prefix; none keeps everything on this machine"
    )
    endpoint_url: Annotated[EndpointUrl | None, Operational] = Field(
        default=None, description="Address of an S3-compatible store; none is what boto3 finds, else AWS"
    )
    region: Annotated[str | None, Operational] = Field(
        default=None, pattern=r"^[a-z0-9-]{1,40}$", description="Region of the bucket; none is what boto3 finds"
    )
    access_key_env: Annotated[VariableName | None, Operational] = Field(
        default=None, description="NAME of the variable with the access key; none takes boto3's own chain"
    )
    secret_key_env: Annotated[VariableName | None, Operational] = Field(
        default=None, description="NAME of the variable with the secret key"
    )
    session_token_env: Annotated[VariableName | None, Operational] = Field(
        default=None, description="NAME of the variable with the session token of a temporary key"
    )
    connect_timeout_s: Annotated[float, Operational] = Field(default=10.0, gt=0, le=600)
    timeout_s: Annotated[float, Operational] = Field(
        default=60.0, gt=0, le=3600, description="Longest silence of the store"
    )
    attempts: Annotated[int, Operational] = Field(default=5, ge=1, le=20, description="Times one request is tried")
    threads: Annotated[int, Operational] = Field(default=10, ge=1, le=64, description="Requests at the same time")
    part_mib: Annotated[int, Operational] = Field(
        default=8, ge=5, le=5120, description="Part of a multipart upload; a larger file is sent in parts"
    )
    max_mbs: Annotated[float | None, Operational] = Field(default=None, gt=0, description="Upload at most, in MB/s")
    patience_s: Annotated[float, Operational] = Field(
        default=60.0, ge=0, le=86_400, description="How long the end of a job waits while the store takes nothing"
    )
    lock_expiry_s: Annotated[float, Operational] = Field(
        default=60.0, ge=1, le=86_400, description="A lock not renewed for so long may be taken by another machine"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.access_key_env is None) != (self.secret_key_env is None):
            raise ValueError("access_key_env and secret_key_env stand together: name both, or none for boto3's own chain")
        if self.session_token_env and not self.access_key_env:
            raise ValueError("session_token_env belongs to a key: name access_key_env and secret_key_env too")
        if self.url is None and (named := sorted(self.model_fields_set - {"url"})):
            raise ValueError(f"url is missing, {', '.join(named)} is set: give the bucket, such as s3://bucket/prefix")
        return self

    def secret_names(self) -> tuple[str, ...]:
        """Return the names of the variables that hold the key."""
        named = (self.access_key_env, self.secret_key_env, self.session_token_env)
        return tuple(name for name in named if name)
