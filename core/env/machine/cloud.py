"""Which cloud this machine is rented from and whether it may be taken away, by DMI first and the metadata service then.

Off a cloud nothing is asked. Sources: AWS IMDSv2, GCP compute metadata v1, Azure IMDS 2021-02-01, each at 169.254.169.254.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.contract import Contract, Finding, Severity
from core.metadata_service import LINK_LOCAL, Answer, MetadataService

_DMI = "sys/class/dmi/id"
_FIELDS = ("sys_vendor", "product_name", "bios_vendor", "chassis_asset_tag", "product_version")
TIMEOUT_S = 1.0

# What firmware says -> the provider. Azure's asset tag is fixed: a plain Hyper-V machine lacks it.
_MARKS = (
    ("7783-7084-3265-9085-8269-3286-77", "Azure"),
    ("Amazon EC2", "AWS"),
    ("amazon", "AWS"),  # Xen instances tell it in the BIOS version only
    ("Google Compute Engine", "GCP"),
    ("OracleCloud.com", "Oracle Cloud"),
    ("DigitalOcean", "DigitalOcean"),
    ("Hetzner", "Hetzner"),
    ("Scaleway", "Scaleway"),
    ("Vultr", "Vultr"),
    ("Alibaba Cloud", "Alibaba Cloud"),
    ("Linode", "Linode"),
    ("OpenStack", "an OpenStack cloud"),
)


class Cloud(Contract):
    """The provider, None off a cloud or where firmware says nothing; `spot` None means nobody told."""

    provider: str | None
    spot: bool | None
    evidence: str


def read_cloud(argument: dict[str, Any]) -> Cloud:
    """Read the provider below `root` and ask the metadata service at `address` (host:port) within a second."""
    provider, evidence = provider_here(Path(argument.get("root", "/")))
    ask = _SPOT.get(provider or "")
    if ask is None:
        return Cloud(provider=provider, spot=None, evidence=evidence)
    address = argument.get("address", LINK_LOCAL)
    try:
        spot = ask(MetadataService(address))
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = str(error) or type(error).__name__
        return Cloud(provider=provider, spot=None, evidence=f"{evidence}; no answer from {address}: {why}")
    return Cloud(provider=provider, spot=spot, evidence=f"{evidence}; metadata service at {address}")


def provider_here(root: Path) -> tuple[str | None, str]:
    """Return the provider that the firmware's files below `root` name and what says so; nobody is asked."""
    told = _firmware(root)
    provider, mark = provider_of(told)
    if provider is None:
        return None, f"/{_DMI} names no provider" if told else f"/{_DMI} is not there or empty"
    return provider, f"/{_DMI}: {mark}"


def _firmware(root: Path) -> dict[str, str]:
    found = {}
    for name in _FIELDS:
        try:
            found[name] = (root / _DMI / name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
    return found


def provider_of(firmware: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the provider that firmware's fields name and the field that does; None and nothing off a cloud."""
    for mark, provider in _MARKS:
        for field, value in firmware.items():
            if mark in value:
                return provider, f"{field} is {value!r}"
    return None, ""


def _aws_spot(service: MetadataService) -> bool | None:
    token = _ask(service, "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    if token.status != 200:
        raise ValueError(f"token: status {token.status}")
    answer = _ask(service, "GET", "/latest/meta-data/instance-life-cycle", {"X-aws-ec2-metadata-token": token.text})
    return {"spot": True, "on-demand": False}.get(answer.text.strip())


def _gcp_spot(service: MetadataService) -> bool | None:
    path = "/computeMetadata/v1/instance/scheduling/preemptible"
    return {"TRUE": True, "FALSE": False}.get(_ask(service, "GET", path, {"Metadata-Flavor": "Google"}).text.strip())


def _azure_spot(service: MetadataService) -> bool | None:
    answer = _ask(service, "GET", "/metadata/instance/compute?api-version=2021-02-01", {"Metadata": "true"})
    told = json.loads(answer.text)
    priority = told.get("priority") if isinstance(told, dict) else None
    return None if answer.status != 200 else priority in {"Spot", "Low"}


_SPOT: dict[str, Callable[[MetadataService], bool | None]] = {"AWS": _aws_spot, "GCP": _gcp_spot, "Azure": _azure_spot}


def _ask(service: MetadataService, method: str, path: str, headers: dict[str, str]) -> Answer:
    return service.ask(method, path, headers, timeout_s=TIMEOUT_S)


def cloud_findings(found: Cloud) -> list[Finding]:
    """Tell that an instance can be taken away."""
    if not found.spot:
        return []
    return [
        Finding(
            code="spot",
            severity=Severity.INFO,
            where=found.provider or "cloud",
            evidence=found.evidence,
            cause="it is a spot instance: the provider may take it away with minutes' notice",
            remedy="Keep the workspace on a disk that outlives the instance; an interrupted run goes on where it stopped.",
        )
    ]
