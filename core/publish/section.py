"""The profile's section `publish`: where a model is published to. All of it is operational."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from core.field_types import PublishAddress, VariableName
from core.section import Operational, Section


class PublishConfig(Section):
    """Where `edgekiln export publish` puts a model."""

    to: Annotated[PublishAddress | None, Operational] = Field(
        default=None,
        description="hf://owner/name[@branch], or s3://bucket/prefix reached as the section remote says",
    )
    token_env: Annotated[VariableName | None, Operational] = Field(
        default=None, description="NAME of the variable with the hub's token; none is what huggingface_hub finds"
    )
    timeout_s: Annotated[float, Operational] = Field(default=60.0, gt=0, le=3600, description="Longest silence of the hub")
