"""Hub, Prefect, alert channels and the network, asked over real HTTP on loopback, and what is made of their answers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core import config
from core.contract import Finding, Severity
from core.env.capability import Context
from core.env.causes import group
from core.env.probe import Reading, run_probes
from core.env.roles import Role
from core.env.services import channels, hub, prefect_api
from core.env.services.capability import CAPABILITY, hub_findings, hub_models, network_findings, prefect_findings
from core.env.services.hub import HubModelReading, HubReading
from core.env.services.prefect_api import PrefectReading
from core.env.services.web import Way, get, is_here, shown, way_to
from tests.core.env.services.conftest import Says, Service

REPO = "/api/models/Qwen/Qwen3-0.6B/revision/main"
WITHIN_S = 2.0


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the tests: an empty hub cache, no tokens, no Prefect profile."""
    for name in (
        "HF_HUB_CACHE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "PREFECT_API_URL",
        "PREFECT_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("PREFECT_API_AUTH_STRING", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


def context(folder: Path, profile: str = "desktop", **overrides: object) -> Context:
    loaded = config.load(profile, {key.replace("__", "."): value for key, value in overrides.items()})
    return Context(loaded, folder, frozenset({Role.TRAINER}), folder, folder)


def ask_hub(where: Context, url: str, monkeypatch: pytest.MonkeyPatch) -> HubReading:
    monkeypatch.setenv("HF_ENDPOINT", url)
    models = {name: source.model_dump() for name, source in hub_models(where).items()}
    return hub.read({"models": models, "within_s": WITHIN_S})


def test_a_teacher_in_transformers_comes_from_the_hub_too(tmp_path: Path) -> None:
    local = {"label__backend": "transformers", "label__teacher": "qwen2.5-0.5b-instruct"}
    assert set(hub_models(context(tmp_path, **local))) == {"qwen2.5-0.5b-instruct", "qwen3-0.6b"}
    assert set(hub_models(context(tmp_path))) == {"qwen3-0.6b"}


def the_one(found: list[Finding], code: str) -> Finding:
    (finding,) = found
    assert finding.code == code
    return finding


def test_every_service_of_a_profile_is_asked_in_a_child_of_its_own(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", service.url)
    monkeypatch.setenv("PREFECT_API_URL", f"{service.url}/api")
    monkeypatch.setenv("DESK", "json://localhost/")
    service.says = {
        f"GET {REPO}": Says({"id": "Qwen/Qwen3-0.6B", "gated": False}),
        "GET /api/health": Says(body=True),
        "GET /api/admin/version": Says("3.8.8"),
    }
    here = context(tmp_path, label__base_url="http://127.0.0.1:1/v1", alerts__url_envs=["DESK"], env__probe_timeout_s=5)

    readings = run_probes(CAPABILITY.probes(here), tmp_path / "scratch")

    assert {name: reading.error for name, reading in readings.items()} == dict.fromkeys(
        ("services.prefect", "services.teacher", "services.hub", "services.alerts")
    )
    assert [finding.code for finding in CAPABILITY.findings(readings, here)] == ["teacher"]
    told = {fact.name: fact.value for fact in CAPABILITY.facts(readings, here)}
    assert told["model Qwen/Qwen3-0.6B"] == "on the hub"
    assert told["Prefect server"].startswith("version 3.8.8")


def test_a_gated_model_says_which_token_was_sent(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service.says[f"GET {REPO}"] = Says({"error": "gated"}, status=401)

    finding = the_one(hub_findings(ask_hub(context(tmp_path), service.url, monkeypatch)), "hub")

    assert "status 401" in finding.evidence
    assert finding.evidence.endswith("no token was sent")
    assert "token_env in the card of qwen3-0.6b" in finding.remedy


def test_a_refused_token_is_named_and_never_told(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    service.says = {
        f"GET {REPO}": Says({"id": "x"}),
        "GET /api/whoami-v2": Says({"error": "Invalid credentials"}, status=401),
    }

    reading = ask_hub(context(tmp_path), service.url, monkeypatch)

    finding = the_one(hub_findings(reading), "hub")
    assert "refuses the token of HF_TOKEN" in finding.evidence
    assert service.asked[0][1]["authorization"] == "Bearer hf_verysecret"
    assert "hf_verysecret" not in reading.model_dump_json() + finding.model_dump_json()


def test_the_librarys_token_file_counts_too(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_file\n", encoding="utf-8")

    reading = ask_hub(context(tmp_path), service.url, monkeypatch)

    assert reading.token == str(tmp_path / "hf" / "token")
    assert service.asked[0][1]["authorization"] == "Bearer hf_file"


def test_a_model_that_is_not_there_is_a_mistake_in_its_card(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = the_one(hub_findings(ask_hub(context(tmp_path), service.url, monkeypatch)), "hub")

    assert "status 404" in finding.evidence
    assert finding.remedy == "Mend repo or revision in the card of qwen3-0.6b."


@pytest.mark.parametrize("garbage", [Says(raw=b"<html>"), Says([1]), Says(raw=b'"' + b"x" * (5 << 20) + b'"')])
def test_a_hub_that_answers_garbage_is_told(
    garbage: Says, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.says[f"GET {REPO}"] = garbage

    finding = the_one(hub_findings(ask_hub(context(tmp_path), service.url, monkeypatch)), "hub")

    assert finding.cause == "the hub cannot be used from here"


def test_a_model_in_the_cache_needs_no_hub(tmp_path: Path) -> None:
    lost = Way(kind="no-way", host="hub.example", problem="no way there")
    model = HubModelReading(
        name="m", repo="o/m", revision="main", status=None, problem="no way there", cached=None, token=None, gated=False
    )
    here = model.model_copy(update={"cached": "/cache"})

    assert len(hub_findings(HubReading(url="https://hub.example", way=lost, models=(model,)))) == 1
    assert hub_findings(HubReading(url="https://hub.example", way=lost, models=(here,))) == []


def test_the_cache_is_looked_into(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "hf" / "hub" / "models--Qwen--Qwen3-0.6B"
    folder = store / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"")
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    probes = [probe for probe in CAPABILITY.probes(context(tmp_path)) if probe.name == "services.hub"]

    readings = run_probes(probes, tmp_path / "scratch")

    assert HubReading.model_validate(readings["services.hub"].value).models[0].cached == str(folder)
    assert CAPABILITY.findings(readings, context(tmp_path)) == []


def test_no_prefect_server_is_needed_when_none_is_set() -> None:
    reading = prefect_api.read({"within_s": WITHIN_S})

    assert reading.url is None
    assert prefect_findings(reading) == []


def test_a_prefect_server_that_is_down_says_where_its_address_stands(tmp_path: Path) -> None:
    folder = tmp_path / "prefect"
    folder.mkdir()
    text = 'active = "lab"\n[profiles.lab]\nPREFECT_API_URL = "http://127.0.0.1:1/api"\n'
    (folder / "profiles.toml").write_text(text, encoding="utf-8")

    finding = the_one(prefect_findings(prefect_api.read({"within_s": WITHIN_S})), "prefect")

    assert finding.where == f"http://127.0.0.1:1/api (profile lab of {folder / 'profiles.toml'})"
    assert finding.remedy_argv == ("prefect", "server", "start")


@pytest.mark.parametrize("text", ["not toml", "profiles = 3", 'active = "x"\n[profiles.y]\n'])
def test_prefect_profiles_that_say_nothing_are_passed_over(text: str, tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "profiles.toml").write_text(text, encoding="utf-8")

    assert prefect_api.read({"within_s": WITHIN_S}).url is None


def test_a_prefect_server_may_ask_for_a_key(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{service.url}/api")
    service.says = {"GET /api/health": Says(body=True), "GET /api/admin/version": Says(body="no", status=401)}

    finding = the_one(prefect_findings(prefect_api.read({"within_s": WITHIN_S})), "prefect")
    assert finding.evidence.endswith("no key was sent")

    for name, sent in (("PREFECT_API_AUTH_STRING", "Basic YTpi"), ("PREFECT_API_KEY", "Bearer a:b")):
        monkeypatch.setenv(name, "a:b")
        reading = prefect_api.read({"within_s": WITHIN_S})
        assert service.asked[-1][1]["authorization"] == sent
        assert prefect_findings(reading)[0].evidence.endswith(f"the key of {name} was sent")


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (Says(raw=b"<html>"), "not JSON"),
        (Says({"state": "starting"}), "its health is {'state'"),
        (Says(status=503), "status 503"),
    ],
)
def test_another_service_on_prefects_port_is_told(
    says: Says, words: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{service.url}/api")
    service.says["GET /api/health"] = says

    assert words in the_one(prefect_findings(prefect_api.read({"within_s": WITHIN_S})), "prefect").evidence


def test_alert_channels_are_parsed_and_never_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOD", "mailtos://me:hidden@example.org")
    monkeypatch.setenv("BAD", "nowhere-hidden")
    monkeypatch.delenv("UNSET", raising=False)

    reading = channels.read({"names": ["GOOD", "BAD", "UNSET"]})
    told = {"services.alerts": Reading(name="a", value=reading.model_dump(mode="json"), error=None, seconds=0.1)}
    found = CAPABILITY.findings(told, context(tmp_path))

    assert [(finding.code, finding.where, finding.severity) for finding in found] == [
        ("alerts", "BAD", Severity.WARNING),
        ("alerts", "UNSET", Severity.WARNING),
    ]
    assert "hidden" not in reading.model_dump_json() + str(found)


def test_no_network_is_one_finding_with_its_services_under_it(tmp_path: Path) -> None:
    way = way_to("https://hub.invalid", WITHIN_S)
    other = way_to("https://api.invalid:4200/api", WITHIN_S)
    assert (way.kind, other.kind) == ("no-way", "no-way")
    model = HubModelReading(
        name="m", repo="o/m", revision="main", status=None, problem=way.problem, cached=None, token=None, gated=False
    )
    found = [
        *hub_findings(HubReading(url="https://hub.invalid", way=way, models=(model,))),
        *prefect_findings(
            PrefectReading(url="https://api.invalid", source="PREFECT_API_URL", way=other, problem=other.problem)
        ),
        *network_findings([way, other, Way(kind="open", host="127.0.0.1")]),
    ]

    (root,) = group(found)

    assert (root.code, root.symptoms, root.severity) == ("network", ("hub", "prefect"), Severity.ERROR)


def test_one_lost_name_among_others_is_no_lost_network() -> None:
    lost = Way(kind="no-way", host="a.example", problem="x")

    assert network_findings([lost]) == []
    assert network_findings([lost, Way(kind="open", host="b.example")]) == []


def test_a_dripping_answer_ends_in_time(service: Service) -> None:
    service.says["GET /"] = Says("a long story", drip_s=0.2)
    started = time.perf_counter()

    answer = get(f"{service.url}/", 0.7)

    assert answer.problem == "no whole answer within 0.7 s"
    assert time.perf_counter() - started < 2


def test_a_server_that_never_answers_or_hangs_up_is_told(service: Service) -> None:
    service.says["GET /"] = Says("late", hold_s=5)

    assert get(f"{service.url}/", 0.3).problem == "no whole answer within 0.3 s"
    assert str(get("http://127.0.0.1:1/", 0.3).problem).startswith("the connection broke: ")


def test_a_proxy_is_where_a_request_goes_first(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:hidden@127.0.0.1:{service.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert way_to("http://hub.invalid/api", WITHIN_S).kind == "open"

    monkeypatch.setenv("http_proxy", "http://me:hidden@127.0.0.1:1")
    way = way_to("http://hub.invalid/api", WITHIN_S)
    assert (way.kind, way.problem) == (
        "refused",
        "127.0.0.1:1 (the proxy of http_proxy) refused the connection: nothing listens there",
    )


def test_addresses_are_told_without_their_passwords() -> None:
    assert shown("https://me:pass@host/v1") == "https://host/v1"
    assert shown("https://host/a@b") == "https://b"  # a slash may be the password's: rather too little than too much
    assert [is_here(host) for host in ("localhost", "127.0.0.1", "::1", "10.0.0.1", "pi.local")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://us:secret9@host:4200/api", "http://host:4200/api"),
        ("http://us:p@secret9@host:4200/api", "http://host:4200/api"),
        ("http://us:se/cret9@host/api", "http://host/api"),
        ("http://us:secret9", "http://us"),
        ("http://us:se/cret9", "http://us"),
        ("us:secret9", "us"),
        ("us:secret9@host:1", "host"),
        ("http://host/v1?key=secret9", "http://host/v1"),
        ("https://[::1]:8000/v1", "https://[::1]:8000/v1"),
    ],
)
def test_a_password_is_never_part_of_what_is_told(url: str, told: str) -> None:
    assert shown(url) == told
    assert "secret9" not in f"{way_to(url, 0.2)} {get(url, 0.2)}"


@pytest.mark.parametrize(
    "url", ["http://us:secret9@127.0.0.1:1/api", "http://us:se/cret9@127.0.0.1/api", "http://us:secret9"]
)
def test_the_password_in_prefects_address_is_not_kept(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)

    reading = prefect_api.read({"within_s": WITHIN_S})

    assert "cret9" not in reading.model_dump_json()
    assert "cret9" not in prefect_findings(reading)[0].model_dump_json()


def test_user_and_password_of_an_address_are_sent_as_clients_send_them(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.says = {"GET /api/health": Says(body=True), "GET /api/admin/version": Says("3.8.8")}
    monkeypatch.setenv("PREFECT_API_URL", f"{service.url.replace('//', '//us:secret9@')}/api")

    reading = prefect_api.read({"within_s": WITHIN_S})

    assert (reading.problem, reading.version) == (None, "3.8.8")
    assert "secret9" not in reading.model_dump_json()
