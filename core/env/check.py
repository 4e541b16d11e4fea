"""The env stage: run the probes of every part, judge what they read by the roles asked for, publish the report.

A part is a Capability (capability.py); `parts()` lists them, third parties' (third_party.py) at the end.
"""

from __future__ import annotations

import difflib
import json
import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path

from core.config import Profile, cache_folder, environment_variables, hf_home
from core.contract import Finding, Limit, Severity, Stage
from core.env import fit, packages, remote_board, third_party
from core.env.accelerators import ACCELERATORS
from core.env.capability import Capability, Context, value_of
from core.env.causes import group
from core.env.host import read_host
from core.env.judging import PROBE, Judged, probe_findings, relate, touched, verdicts
from core.env.libraries import LIBRARIES
from core.env.machine import capability as machine
from core.env.machine.storage import GB, Places
from core.env.machine.system import ThisMachine, usable_ram_bytes
from core.env.probe import Reading, run_probes
from core.env.roles import Role, roles_of
from core.env.services import capability as services
from core.env.trial import capability as trial
from core.errors import BadConfig, BlockedByCheck
from core.events import Found, OnEvent, ignore
from core.files import digest_of, write_atomic
from core.nouns import EnvReport, Fact, HostFacts
from core.stage import Facts, Order, produce
from core.workspace import Workspace, artifacts

_VERSION = 2
# what the probes and the libraries they ask go by; values enter the identity's hash alone
_VARIABLES = (
    *("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
    *("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_HOME"),
    *("HF_ENDPOINT", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"),
    *(name for scheme in ("http", "https", "all", "no") for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper())),
)
_SECRETS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # only whether they are set
_PASSING = "EDGEKILN_PASSING_SERVER"
_COSTS_NO_MEMORY = frozenset(
    {"num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "max_grad_norm", "assistant_turns", "seed"}
)


@dataclass(frozen=True)
class Examination:
    """What one look at a machine gave."""

    readings: Mapping[str, Reading]
    judged: Sequence[Judged]
    facts: Sequence[Fact]


def check(profile: Profile, workspace: Workspace, beside: Path, on_event: OnEvent = ignore) -> EnvReport:
    """Judge this machine for the profile's roles; BlockedByCheck names every finding that stops the job."""
    report = examine(profile, workspace, beside, on_event=on_event)
    refuse_blocked(report)
    return report


def examine(
    profile: Profile,
    workspace: Workspace,
    beside: Path,
    roles: Iterable[Role] = (),
    on_event: OnEvent = ignore,
) -> EnvReport:
    """Judge this machine for roles, the profile's when none is named, and publish the report.

    A report that let the job pass is reused within `env.max_age_s` while machine, packages, profile and roles are the
    same; one that blocked is never reused, because its reader has just mended something.
    """
    points = third_party.entry_points()
    context = Context(
        profile=profile,
        beside=beside,
        roles=frozenset(roles) or roles_of(profile, beside),
        workspace=workspace.root,
        cache=cache_folder(),
    )
    all_parts = parts(points)
    refuse_unknown(context.config.skip, all_parts)
    host = read_host()
    order = Order(
        noun=EnvReport,
        stage=Stage.ENV,
        version=_VERSION,
        config=context.config,
        inputs=(host.fingerprint, _asked(context)),
        tools={"python": platform.python_version(), **packages.versions(), **third_party.versions(points)},
        limits=(Limit(metric="errors", op="==", value=0),),
        max_age_s=context.config.max_age_s,
    )
    if _last_one_blocked(order, workspace):
        order = replace(order, max_age_s=0.0)
    return produce(order, workspace, on_event, lambda content: _work(content, context, all_parts, host, on_event))


def parts(points: Iterable[EntryPoint] = ()) -> tuple[Capability, ...]:
    """Return every part of the doctor."""
    own = (
        machine.CAPABILITY,
        ACCELERATORS,
        LIBRARIES,
        trial.CAPABILITY,
        fit.CAPABILITY,
        services.CAPABILITY,
        remote_board.CAPABILITY,
    )
    return (*own, *third_party.capabilities(points, _codes(own)))


def _codes(given: Iterable[Capability]) -> list[str]:
    return list(dict.fromkeys([check.code for part in given for check in part.checks] + [PROBE]))


def refuse_unknown(skip: Iterable[str], given: Iterable[Capability]) -> None:
    """Raise BadConfig that names every unknown check code in `env.skip` and the nearest known one."""
    known = _codes(given)
    unknown = [code for code in skip if code not in known]
    if not unknown:
        return
    near = [match for code in unknown for match in difflib.get_close_matches(code, known, n=1)]
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}."
    raise BadConfig(f"env.skip: no check {', '.join(map(repr, unknown))}", remedy=f"Name known checks; {hint}")


def _asked(context: Context) -> str:
    """Return the hash of what the answer depends on beside the machine: roles, board, services, what must fit and convert."""
    board, label = context.remote_board, context.profile.label
    train = context.profile.train.shaping()
    return digest_of(
        {
            "roles": sorted(context.roles),
            "board": board.model_dump(mode="json") if board else None,
            "teacher": [label.teacher, label.backend, label.base_url, label.api_key_env],
            "alerts": list(context.profile.alerts.url_envs),
            "remote": context.profile.remote.model_dump(mode="json"),
            "train": {name: value for name, value in train.items() if name not in _COSTS_NO_MEMORY},
            "quantisations": list(context.profile.export.quantisations),
            "folders": [str(context.cache), str(hf_home())],
            "variables": _variables(context),
        }
    )


def _variables(context: Context) -> dict[str, str | bool]:
    """Return the variables the answer depends on; of secrets only that they are set."""
    found = environment_variables(_VARIABLES)
    if found.get("PREFECT_API_URL") == environment_variables([_PASSING]).get(_PASSING):
        found.pop("PREFECT_API_URL", None)  # a run's own server, on another port each time
    profile = context.profile
    tokens = [model.token_env for model in services.hub_models(context).values()]
    secret = [*_SECRETS, profile.label.api_key_env, *profile.alerts.url_envs, *profile.remote.secret_names(), *tokens]
    return {**found, **dict.fromkeys(environment_variables([name for name in secret if name]), True)}


def _last_one_blocked(order: Order[EnvReport], workspace: Workspace) -> bool:
    identity = order.identity()
    same = [report for report in artifacts(workspace, Stage.ENV) if report.identity == identity]
    return bool(same) and not same[-1].verdict.passed


def look(context: Context, given: Sequence[Capability], on_event: OnEvent = ignore) -> Examination:
    """Run the probes of the parts that matter and judge what they read; nothing is published."""
    skip = set(context.config.skip)
    awake = [part for part in given if any(c.code not in skip and touched(c, context) for c in part.checks)]
    with tempfile.TemporaryDirectory(prefix="edgekiln-env-", ignore_cleanup_errors=True) as scratch:
        readings = run_probes([probe for part in awake for probe in part.probes(context)], Path(scratch), on_event)
    judged = [each for part in awake for each in _judged(part, readings, context) if each.finding.code not in skip]
    if PROBE not in skip:
        failed = probe_findings(readings, [each.finding for each in judged])
        judged += [Judged(finding, dict.fromkeys(context.roles, finding.severity)) for finding in failed]
    return Examination(readings, judged, [fact for part in awake for fact in part.facts(readings, context)])


def _judged(part: Capability, readings: Mapping[str, Reading], context: Context) -> list[Judged]:
    checks = {check.code: check for check in part.checks}
    related = (relate(finding, checks[finding.code], context) for finding in part.findings(readings, context))
    return [each for each in related if each is not None]


def _work(content: Path, context: Context, given: Sequence[Capability], host: HostFacts, on_event: OnEvent) -> Facts:
    seen = look(context, given, on_event)
    findings = _worst_first(group([each.finding for each in seen.judged]))
    for finding in findings:
        on_event(Found(stage=Stage.ENV, finding=finding))
    read = {name: reading.model_dump(mode="json") for name, reading in seen.readings.items()}
    write_atomic(content / "readings.json", json.dumps(read, ensure_ascii=False, indent=1).encode())
    own = {"host": host, "findings": findings, "roles": verdicts(context.roles, seen.judged), "facts": tuple(seen.facts)}
    return Facts(own=own, metrics=_metrics(findings, seen.readings))


def _worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    order = list(Severity)
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))


def _metrics(findings: Sequence[Finding], readings: Mapping[str, Reading]) -> dict[str, float]:
    metrics = {
        "errors": float(sum(finding.severity is Severity.ERROR for finding in findings)),
        "warnings": float(sum(finding.severity is Severity.WARNING for finding in findings)),
    }
    if (places := value_of(readings, "machine.places", Places)) is not None:
        metrics["free_disk_gb"] = next(p.free_bytes for p in places.places if p.name == "workspace") / GB
    if here := value_of(readings, "machine.system", ThisMachine):
        ram = usable_ram_bytes(here.system.host)
        metrics |= {} if ram is None else {"usable_ram_gb": ram / GB}
    return metrics


def refuse_blocked(report: EnvReport) -> None:
    """Raise BlockedByCheck that names every error of a report, with its remedies."""
    errors = [finding for finding in report.findings if finding.severity is Severity.ERROR]
    if not errors:
        return
    told = "; ".join(f"{finding.code} {finding.where}: {finding.evidence}" for finding in errors)
    raise BlockedByCheck(told, remedy=" ".join(dict.fromkeys(finding.remedy for finding in errors)))
