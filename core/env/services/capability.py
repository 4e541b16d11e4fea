"""The doctor's part for services: which of them the profile uses, and what their answers mean for the job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from core import catalogue
from core.catalogue import HubModel
from core.contract import Confidence, Finding, Severity
from core.env import packages
from core.env.capability import Capability, Check, Context, Readings, value_of
from core.env.probe import Probe
from core.env.roles import EVERY, Role
from core.env.services.channels import ChannelsReading
from core.env.services.hub import HubAsked, HubModelReading, HubReading
from core.env.services.object_store import StoreAsked, StoreReading
from core.env.services.prefect_api import PrefectReading
from core.env.services.teacher import TeacherAsked, TeacherReading
from core.env.services.web import Way, is_here, shown
from core.nouns import Fact
from core.remote.failures import UNCONDITIONAL_REMEDY

_TEACHER, _HUB, _PREFECT, _ALERTS = "services.teacher", "services.hub", "services.prefect", "services.alerts"
_REMOTE = "services.remote"
_AGAIN = ("edgekiln", "env", "--no-cache")
_MARGIN_S = 4.0  # a probe is ended this long after the time its service has


def probes(context: Context) -> list[Probe]:
    """Return a probe for each service the profile uses."""
    within_s, profile = context.config.probe_timeout_s, context.profile
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("core.env.services.prefect_api:read", _PREFECT, {"within_s": within_s})
    ]
    if profile.label.backend == "openai":
        card = catalogue.model(profile.label.teacher, context.beside)
        teacher = TeacherAsked(label=profile.label, card=card, within_s=within_s)
        asked.append(("core.env.services.teacher:read", _TEACHER, teacher.model_dump(mode="json")))
    if models := hub_models(context):
        hub = HubAsked(models=models, within_s=within_s)
        asked.append(("core.env.services.hub:read", _HUB, hub.model_dump(mode="json")))
    if names := profile.alerts.url_envs:
        asked.append(("core.env.services.channels:read", _ALERTS, {"names": list(names)}))
    if profile.remote.url:
        store = StoreAsked(remote=profile.remote, within_s=within_s)
        asked.append(("core.env.services.object_store:read", _REMOTE, store.model_dump(mode="json")))
    longest = within_s + _MARGIN_S
    return [Probe(name=name, target=target, argument=told, timeout_s=longest) for target, name, told in asked]


def hub_models(context: Context) -> dict[str, HubModel]:
    """Return the models a profile takes from the hub: its student, and a teacher that answers on this machine."""
    label = context.profile.label
    names = {context.profile.train.student} | ({label.teacher} if label.backend != "openai" else set())
    cards = [catalogue.model(name, context.beside) for name in sorted(names)]
    return {card.name: card.source for card in cards if isinstance(card.source, HubModel)}


def findings(readings: Readings, context: Context) -> list[Finding]:
    """Judge every service that was asked."""
    teacher, hub = value_of(readings, _TEACHER, TeacherReading), value_of(readings, _HUB, HubReading)
    prefect, channels = value_of(readings, _PREFECT, PrefectReading), value_of(readings, _ALERTS, ChannelsReading)
    store = value_of(readings, _REMOTE, StoreReading)
    return [
        *_overrun(readings),
        *(teacher_findings(teacher, context.profile.label.api_key_env) if teacher else ()),
        *(hub_findings(hub) if hub else ()),
        *(prefect_findings(prefect) if prefect else ()),
        *(channel_findings(channels) if channels else ()),
        *(store_findings(store) if store else ()),
        *network_findings([reading.way for reading in (teacher, hub, prefect, store) if reading and reading.way]),
    ]


def _overrun(readings: Readings) -> Iterator[Finding]:
    """A service that kept its probe waiting until the probe was ended, or whose client fell over."""
    for name in (_TEACHER, _HUB, _PREFECT, _REMOTE):
        reading = readings.get(name)
        if reading is not None and reading.error is not None:
            yield _finding(
                name.rpartition(".")[2],
                where=name,
                evidence=reading.error,
                cause="the service takes connections and does not answer"
                if "ran >" in reading.error
                else "its client failed",
                confidence=Confidence.LOW,
                remedy="Look after the service; a slow one is given more time by env.probe_timeout_s.",
            )


def teacher_findings(found: TeacherReading, key_env: str | None = None) -> list[Finding]:
    """Judge the teacher's endpoint."""
    told = _TEACHER_TROUBLE.get(found.outcome)
    where = f"{shown(found.url)} {found.model}"
    if told is not None:
        cause, remedy = told
        served = f"; it lists {', '.join(found.served[:8])}" if found.served and found.outcome == "no-model" else ""
        confidence = Confidence.MEDIUM if found.outcome in {"failed", "late"} else Confidence.HIGH
        evidence = f"{found.problem}{served}"
        key = f" The key's variable is {key_env}." if key_env and found.outcome == "refused-key" else ""
        remedy = f"{found.remedy or remedy}{key}"
        return [_finding("teacher", where, evidence, cause, remedy, confidence=confidence)]
    return [*_other_model(found, where), *_ignores_schema(found, where)]


_TEACHER_TROUBLE = {
    "unreachable": (
        "the teacher's server is not running there, or label.base_url is wrong",
        "Start the teacher's server, or mend label.base_url.",
    ),
    "no-key": ("the key's variable is not set where this runs", "Set it."),
    "no-client": ("the openai client is not installed", "pip install 'edgekiln[teacher]'"),
    "refused-key": ("the key is wrong, expired or missing", "Give a valid key."),
    "no-model": ("the server serves another model, or label.base_url is not the API's root", "Mend the model's name."),
    "late": ("the server is overloaded, or still loads the model", "Wait for it, or raise env.probe_timeout_s."),
    "failed": (
        "what listens there is not an OpenAI-compatible server, or it is broken",
        "Mend label.base_url or the server.",
    ),
}


def _other_model(found: TeacherReading, where: str) -> Iterator[Finding]:
    if found.served is not None and found.model not in found.served:
        yield _finding(
            "teacher",
            where,
            evidence=f"it answers for {found.model!r}, yet lists only {', '.join(found.served[:8]) or 'nothing'} (/models)",
            cause="the server gives the answers of another model, whatever it is asked for",
            remedy="Name the served model in the teacher's card, or serve the one it names: labels must say whose they are.",
            confidence=Confidence.MEDIUM,
            severity=Severity.WARNING,
        )


def _ignores_schema(found: TeacherReading, where: str) -> Iterator[Finding]:
    if found.keeps_schema is False:
        yield _finding(
            "teacher",
            where,
            evidence=f"asked with a JSON schema, it answered {found.text!r} (response_format json_schema)",
            cause="the server ignores the schema, so answers to rows that ask for JSON may be none",
            remedy="Start the server with structured output, or count on repeated questions for rows with requires_json.",
            severity=Severity.WARNING,
        )


def hub_findings(found: HubReading) -> list[Finding]:
    """Judge the hub: what is cached already needs no hub."""
    told = [finding for model in found.models if model.problem and not model.cached for finding in [_model(found, model)]]
    if found.token_refused:
        told.append(
            _finding(
                "hub",
                where=f"{shown(found.url)}, token of {found.token}",
                evidence=f"it refuses the token of {found.token}: {found.token_refused}",
                cause="the token is wrong or expired, and is sent with every download",
                remedy=f"Put a valid token into {found.token}, or take it away: open models need none.",
            )
        )
    return told


def _model(found: HubReading, model: HubModelReading) -> Finding:
    where = f"{shown(found.url)} {model.repo}@{model.revision}"
    evidence = f"{model.problem}; its weights are not in the cache"
    if model.status in {401, 403}:
        token = f"the token of {model.token}" if model.token else "no token"
        cause = "the model is gated or private, or there is none of that name; the hub tells strangers no more"
        remedy = f"Accept its licence on the hub and name the token's variable as token_env in the card of {model.name}."
        return _finding("hub", where, f"{evidence}; {token} was sent", cause, remedy)
    if model.status == 404:
        remedy = f"Mend repo or revision in the card of {model.name}."
        return _finding("hub", where, evidence, "there is no such repository or revision", remedy)
    remedy = "Bring the network up, name a mirror with HF_ENDPOINT, or put the model into the cache from elsewhere."
    return _finding("hub", where, evidence, "the hub cannot be used from here", remedy, confidence=Confidence.MEDIUM)


def prefect_findings(found: PrefectReading) -> list[Finding]:
    """Judge the Prefect server a run here would use; none set is none needed."""
    if found.url is None or found.problem is None:
        return []
    refused = found.status in {401, 403} or "status 40" in found.problem
    key = f"the key of {found.key} was sent" if found.key else "no key was sent"
    return [
        _finding(
            "prefect",
            where=f"{shown(found.url)} ({found.source})",
            evidence=f"{found.problem}; {key}" if refused else found.problem,
            cause="the server asks for a key" if refused else "the server is not running, or another service listens there",
            remedy="Set PREFECT_API_KEY or PREFECT_API_AUTH_STRING." if refused else _START_PREFECT,
            remedy_argv=() if refused else ("prefect", "server", "start"),
        )
    ]


_START_PREFECT = "Start it with `prefect server start`, or unset PREFECT_API_URL: a run then starts a server of its own."


def channel_findings(found: ChannelsReading) -> list[Finding]:
    """Judge the alert channels, named by their variables."""
    return [
        _finding(
            "alerts",
            where=channel.name,
            evidence=channel.problem,
            cause="nobody would be told through it",
            remedy=f"Put an Apprise URL into {channel.name}, or take it out of alerts.url_envs.",
            severity=Severity.WARNING,
        )
        for channel in found.channels
        if channel.problem
    ]


def store_findings(found: StoreReading) -> list[Finding]:
    """Judge the object store; one without conditional writes cannot keep two machines apart."""
    if found.problem is not None:
        cause = _STORE_CAUSES.get(str(found.code), "the store cannot be used as the section remote says")
        way = f"; {found.way.problem}" if found.way and found.way.problem else ""
        return [_finding("remote", found.where, f"{found.problem} [{found.code}]{way}", cause, found.remedy)]
    if found.conditional:
        return []
    return [
        _finding(
            "remote",
            found.where,
            evidence="it wrote over an object in spite of If-None-Match or If-Match",
            cause="the store does not keep to the conditions of a write, so it holds no lock",
            remedy=UNCONDITIONAL_REMEDY,
        )
    ]


_STORE_CAUSES = {
    "service-remote-unreachable": "nothing listens there, or the network is down",
    "service-remote-slow": "the store is overloaded, or the way to it is slow",
    "service-remote-no-credentials": "no key is set where this runs",
    "service-remote-refused": "the key is wrong, expired, or may not write there",
    "service-remote-no-bucket": "the bucket is misspelt or was never made",
    "service-remote-wrong-region": "remote.region is not the bucket's",
    "service-remote-clock": "the clock of this machine is wrong",
    "env-tool-missing": "the client is not installed, or a key's variable is not set",
}


def network_findings(ways: Sequence[Way]) -> list[Finding]:
    """Return one finding when no service outside this machine has a way to it; one name of several may just be misspelt."""
    outside = {way.host: way for way in ways if not is_here(way.host)}
    lost = [way for way in outside.values() if way.kind == "no-way"]
    if len(lost) < 2 or len(lost) < len(outside):
        return []
    return [
        _finding(
            "network",
            where="network",
            evidence="; ".join(f"{way.host}: {way.problem}" for way in sorted(lost, key=lambda way: way.host)),
            cause="this machine has no network, or its names are not resolved",
            remedy="Bring the network up; behind a proxy set HTTPS_PROXY.",
            severity=Severity.WARNING,
        )
    ]


def _finding(
    code: str,
    where: str,
    evidence: str,
    cause: str,
    remedy: str,
    *,
    severity: Severity = Severity.ERROR,
    confidence: Confidence = Confidence.HIGH,
    remedy_argv: tuple[str, ...] = (),
) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        where=where,
        evidence=evidence,
        cause=cause,
        confidence=confidence,
        remedy=remedy,
        remedy_argv=remedy_argv,
        verify_argv=_AGAIN,
    )


def facts(readings: Readings, _context: Context) -> list[Fact]:
    """Tell what answered, and how fast."""
    told = []
    if (teacher := value_of(readings, _TEACHER, TeacherReading)) and teacher.outcome == "answered":
        schema = {True: ", keeps to a JSON schema", False: ", ignores a JSON schema", None: ""}[teacher.keeps_schema]
        told.append(_fact("teacher", f"{teacher.model} answers in {teacher.seconds:.2f} s{schema}", shown(teacher.url)))
    if hub := value_of(readings, _HUB, HubReading):
        there = {model.repo: model.cached or ("on the hub" if not model.problem else model.problem) for model in hub.models}
        told += [_fact(f"model {repo}", where, shown(hub.url)) for repo, where in there.items()]
    if prefect := value_of(readings, _PREFECT, PrefectReading):
        told.append(_prefect_fact(prefect))
    if (store := value_of(readings, _REMOTE, StoreReading)) and store.problem is None:
        sums = "checks SHA-256" if store.checks_sha256 else "takes any SHA-256, so ours is checked on the way back"
        told.append(_fact("object store", f"tried out in {store.seconds:.2f} s; {sums}", store.where))
    return told


def _prefect_fact(found: PrefectReading) -> Fact:
    if found.url is None:
        return _fact("Prefect server", "none is set: a run starts its own", "PREFECT_API_URL")
    beside = f", the client here is {packages.installed_version('prefect')}"
    return _fact("Prefect server", f"version {found.version or 'unknown'}{beside}", shown(found.url))


def _fact(name: str, value: str, source: str) -> Fact:
    return Fact(name=name, value=value, source=source)


_RUNS = EVERY - {Role.BOARD}
CAPABILITY = Capability(
    name="services",
    checks=(
        Check(code="teacher", blocks=frozenset({Role.LABELER})),
        Check(code="hub", blocks=frozenset({Role.TRAINER, Role.EXPORTER, Role.LABELER})),
        Check(code="prefect", blocks=frozenset({Role.SERVER}), warns=_RUNS - {Role.SERVER}),
        Check(code="alerts", blocks=_RUNS),
        Check(code="remote", blocks=_RUNS - {Role.SERVER}),
        Check(code="network", blocks=_RUNS),
    ),
    probes=probes,
    findings=findings,
    facts=facts,
)
