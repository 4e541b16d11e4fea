"""The env stage: read the machine, judge it against the job, publish the report, stop the run when a check blocks."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path

from core.config import EnvConfig, cache_folder
from core.contract import Finding, Limit, Severity, Stage
from core.env import packages
from core.env.checks import GB, Machine, refuse_unknown, run_checks, usable_ram_bytes
from core.env.gpu import read_gpus
from core.env.host import read_host
from core.errors import BlockedByCheck
from core.events import Found, OnEvent, ignore
from core.files import write_atomic
from core.nouns import EnvReport, HostFacts
from core.stage import Facts, Order, produce
from core.workspace import Workspace, artifacts

_VERSION = 1


def check(config: EnvConfig, workspace: Workspace, on_event: OnEvent = ignore) -> EnvReport:
    """Judge this machine and publish the report; BlockedByCheck names every check that stops the job.

    A report that let the job pass is reused within `max_age_s` while machine and packages are the same; one that
    blocked is never reused, because its reader has just mended something.
    """
    refuse_unknown(config.skip)
    host = read_host()
    order = Order(
        noun=EnvReport,
        stage=Stage.ENV,
        version=_VERSION,
        config=config,
        inputs=(host.fingerprint,),
        tools=_versions(),
        limits=(Limit(metric="errors", op="==", value=0),),
        max_age_s=config.max_age_s,
    )
    if _last_one_blocked(order, workspace):
        order = replace(order, max_age_s=0.0)
    report = produce(order, workspace, on_event, lambda content: _examine(content, config, host, workspace, on_event))
    _refuse_blocked(report)
    return report


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **packages.versions()}


def _last_one_blocked(order: Order[EnvReport], workspace: Workspace) -> bool:
    identity = order.identity()
    same = [report for report in artifacts(workspace, Stage.ENV) if report.identity == identity]
    return bool(same) and not same[-1].verdict.passed


def _examine(content: Path, config: EnvConfig, host: HostFacts, workspace: Workspace, on_event: OnEvent) -> Facts:
    machine = Machine(config=config, host=host, gpus=read_gpus(), workspace=workspace.root, cache=cache_folder())
    findings = run_checks(machine)
    for finding in findings:
        on_event(Found(stage=Stage.ENV, finding=finding))
    listed = [finding.model_dump(mode="json") for finding in findings]
    write_atomic(content / "findings.json", json.dumps(listed, ensure_ascii=False, indent=1).encode())
    return Facts(own={"host": host, "findings": tuple(findings)}, metrics=_metrics(machine, findings))


def _metrics(machine: Machine, findings: list[Finding]) -> dict[str, float]:
    metrics = {
        "errors": float(sum(finding.severity is Severity.ERROR for finding in findings)),
        "warnings": float(sum(finding.severity is Severity.WARNING for finding in findings)),
        "free_disk_gb": shutil.disk_usage(machine.workspace).free / GB,
        "cuda_gpus": float(len(machine.gpus.gpus)),
    }
    ram = usable_ram_bytes(machine.host)
    return metrics if ram is None else {**metrics, "usable_ram_gb": ram / GB}


def _refuse_blocked(report: EnvReport) -> None:
    errors = [finding for finding in report.findings if finding.severity is Severity.ERROR]
    if not errors:
        return
    told = "; ".join(f"{finding.code} {finding.where}: {finding.evidence}" for finding in errors)
    raise BlockedByCheck(told, remedy=" ".join(dict.fromkeys(finding.remedy for finding in errors)))
