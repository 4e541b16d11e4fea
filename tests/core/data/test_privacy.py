"""The privacy pass: each kind is found by its checksum or structure, and no value is left in text, excerpt or report."""

from __future__ import annotations

import json
import string
import time
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import luhn
from stdnum.fr import nir

from core.data.flaws import Flaw
from core.data.limits import PersonalKind, PrivacyLimits, RuleLimits
from core.data.privacy import PrivacyTally, find, redact, redact_flaw
from core.data.rules import judge
from core.data.subject import Subject

DATA = Path(__file__).parents[2] / "data"
LIMITS = PrivacyLimits()
KEY = "".join(map(str, range(10))) + string.ascii_letters

# Examples the issuers, registries and libraries publish, and made-up ones with right check digits.
PERSONAL: list[tuple[PersonalKind, str]] = [
    ("email", "jean.tremblay@hydro.qc.ca"),
    ("email", "Zoé+liste@Élan.québec"),
    ("phone", "514-987-1234"),
    ("phone", "(418) 643-2688"),
    ("phone", "+1 514 987 1234"),
    ("phone", "06 12 34 56 78"),
    ("phone", "+33 6 12 34 56 78"),
    ("phone", "020 7946 0958"),
    ("ip", "192.168.0.10"),
    ("ip", "8.8.8.8"),
    ("ip", "2001:db8::8a2e:370:7334"),
    ("ip", "fe80:0:0:0:204:61ff:fe9d:f156"),
    ("card", "4111 1111 1111 1111"),
    ("card", "5500-0055-5555-5559"),
    ("card", "378282246310005"),
    ("iban", "FR14 2004 1010 0505 0001 3M02 606"),
    ("iban", "GB29NWBK60161331926819"),
    ("iban", "NO93 8601 1117 947"),
    ("national-id", "130 692 544"),
    ("national-id", "NAS: 130692544"),
    ("national-id", "536-90-4399"),
    ("national-id", "2 95 10 99 126 111 93"),
    ("national-id", "AB 12 34 56 C"),
    ("national-id", "943 476 5870"),
    ("national-id", "54362315K"),
    ("national-id", "RCCMNL83S18D969H"),
    ("national-id", "TREM 8551 1412"),
    ("address", "1234 rue de la Montagne"),
    ("address", "12 bis, boulevard Saint-Joseph Est"),
    ("address", "3 chemin de l’Église"),
    ("address", "10 Downing Street"),
    ("address", "H3G 1Z1"),
    ("secret", "AKIAIOSFODNN7EXAMPLE"),
    ("secret", f"ghp_{KEY[:36]}"),
    ("secret", f"github_pat_{KEY[:40]}"),
    ("secret", f"glpat-{KEY[:20]}"),
    ("secret", f"123456789:AA{KEY[:33]}"),
    ("secret", f"AC{'0123456789abcdef' * 2}"),
    ("secret", f"sk-proj-{KEY[:40]}"),
    ("secret", f"xoxb-{KEY[:10]}-{KEY[10:34]}"),
    ("secret", f"AIza{KEY[:35]}"),
    ("secret", f"sk_live_{KEY[:24]}"),
    ("secret", f"hf_{KEY[:34]}"),
    ("secret", f"eyJ{KEY[:20]}.eyJ{KEY[:30]}.{KEY[:43]}"),
    ("secret", f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n{KEY}\n-----END RSA PRIVATE KEY-----"),
    ("secret", f"-----BEGIN OPENSSH PRIVATE KEY-----\n{KEY}\n{KEY[:20]}"),
]
HARMLESS = [
    "12 × 15 = 185, 3/4 tasse plus 2/3 tasse",
    "Le 2024-01-15 à 12:30:45, par la 401, 10 000 $, -10°C, 50$ la semaine",
    "Version 3.11.2, section 1.2.3, figure 4.5",
    "Commande 1234567812345678, facture 046 454 287, dossier 000-12-3456",
    "items[::2], std::vector<int>, a::b::c, 3 rue, 2 place de parking, 5 avenues",
    "user@, @ginette, a@b, FR00 0000 0000 0000 0000 0000 000",
    "999.1.2.3 et 1.2.3.4.5 et 300.300.300.300",
    "Une PRIVATE KEY, ça se garde. sk-8, ghp_x, AKIA",
    "Le mot de passe est secret. password: correcthorse, token: abcdefgh",
]


@pytest.mark.parametrize(("kind", "value"), PERSONAL, ids=lambda value: value[:24])
def test_each_kind_is_found_whole_wherever_it_stands(kind: PersonalKind, value: str) -> None:
    for text in (value, f"Éric: {value}.", f"«{value}», dit-il", f"({value})", f"{value}\n", f"Note\t{value}; fin"):
        assert [(text[start:end], found) for start, end, found in find(text, LIMITS)] == [(value, kind)], text


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("mot de passe : azerty123", "azerty123"),
        ('{"api_key": "a1b2c3d4e5"}', "a1b2c3d4e5"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI/K7MDENG"),
        ("https://moi:s3cret@site.ca/a", "s3cret"),
        ("the password is hunter22!", "hunter22"),
    ],
)
def test_a_password_is_found_where_it_is_called_one(text: str, secret: str) -> None:
    redacted = redact(text, LIMITS)

    assert secret not in redacted.tree
    assert set(redacted.counts) == {"secret"}


def test_prose_after_a_private_key_is_left() -> None:
    key = PERSONAL[-2][1]

    assert redact(f"Voici: {key} Merci. {key}, encore", LIMITS).tree == "Voici: <SECRET_1> Merci. <SECRET_1>, encore"
    assert redact(f"{key[:60]}\nMerci de le garder.", LIMITS).tree == "<SECRET_1>\nMerci de le garder."


@pytest.mark.parametrize("text", HARMLESS, ids=lambda text: text[:24])
def test_numbers_that_fail_their_check_are_left(text: str) -> None:
    assert find(text, LIMITS) == []


def test_the_quebec_prompts_hold_no_personal_data() -> None:
    for name in ("quebecois_conversation.jsonl", "quebecois_distill.jsonl"):
        for line in (DATA / name).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            assert redact(record, LIMITS).tree == record


def test_a_value_has_one_placeholder_in_the_whole_row() -> None:
    row = {
        "user": "Écris à zoe@a.ca et à leo@b.ca.",
        "extra": {"contact": ["leo@b.ca", 3, None, True], "leo@b.ca": "514-987-1234", "phone": 5149871234},
    }

    redacted = redact(row, LIMITS)

    assert redacted.tree == {
        "user": "Écris à <EMAIL_1> et à <EMAIL_2>.",
        "extra": {"contact": ["<EMAIL_2>", 3, None, True], "<EMAIL_2>": "<PHONE_1>", "phone": "<PHONE_2>"},
    }
    assert redacted.counts == Counter({"email": 4, "phone": 2})


def test_a_value_is_replaced_also_where_it_would_not_be_found() -> None:
    redacted = redact({"a": "mot de passe: azerty123", "b": "xxazerty123xx"}, LIMITS)

    assert redacted.tree == {"a": "mot de passe: <SECRET_1>", "b": "xx<SECRET_1>xx"}


def test_a_row_with_too_many_values_is_set_aside() -> None:
    text = " ".join(f"client{number}@magasin.ca" for number in range(300))

    redacted = redact({"user": text}, LIMITS)

    assert redacted.refusal is not None
    assert redacted.refusal.code == "personal-data-excess"
    assert redacted.tree is None


def test_only_the_kinds_that_are_asked_for_are_redacted() -> None:
    text = "zoe@a.ca, 8.8.8.8"

    assert redact(text, PrivacyLimits(kinds=("ip",))).tree == "zoe@a.ca, <IP_1>"
    assert redact(text, PrivacyLimits(kinds=())).tree == text


def test_names_are_found_by_a_model_and_else_stated_as_not_checked() -> None:
    limits = PrivacyLimits(kinds=("email", "name"))

    def ginette(text: str) -> list[tuple[int, int]]:
        return [(text.find("Ginette"), text.find("Ginette") + 7)] if "Ginette" in text else []

    assert redact("Ginette dit oui", limits, ginette).tree == "<NAME_1> dit oui"
    assert "name" in PrivacyTally(limits).report().not_checked
    assert PrivacyTally(limits, ginette).report().checked == ("email", "name")


def test_the_report_counts_by_kind_and_says_what_was_not_looked_for() -> None:
    tally = PrivacyTally(PrivacyLimits(max_values=2))
    for text in ("zoe@a.ca, 8.8.8.8", "rien", "leo@b.ca", "a1@b.ca a2@b.ca a3@b.ca"):
        tally.add(redact(text, PrivacyLimits(max_values=2)))

    report = tally.report()

    assert (report.rows, report.rows_redacted, report.rows_set_aside) == (4, 2, 1)
    assert report.counts == {"email": 5, "ip": 1}
    assert report.not_checked == ("name",)


def card() -> st.SearchStrategy[str]:
    head = st.from_regex(r"4[0-9]{14}", fullmatch=True)
    return head.map(lambda digits: digits + luhn.calc_check_digit(digits))


def social_insurance() -> st.SearchStrategy[str]:
    whole = st.from_regex(r"[1-79][0-9]{7}", fullmatch=True).map(lambda digits: digits + luhn.calc_check_digit(digits))
    return whole.map(lambda digits: f"{digits[:3]} {digits[3:6]} {digits[6:]}")


def insee() -> st.SearchStrategy[str]:
    head = st.from_regex(r"[12][0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[1-8][0-9])[0-9]{6}", fullmatch=True)
    return head.map(lambda digits: digits + nir.calc_check_digits(digits))


VALUES = st.one_of(
    st.sampled_from([value for _, value in PERSONAL]),
    st.emails().filter(lambda email: email.isascii() and set(email) <= set(string.ascii_letters + string.digits + ".-@_+")),
    st.ip_addresses(v=4).map(str),
    card(),
    social_insurance(),
    insee(),
)
PLAIN = st.text("abc éÀ.,:;-_()<>/@+ \n0127", max_size=30)


@settings(deadline=None)
@given(st.lists(st.tuples(PLAIN, VALUES, PLAIN), min_size=1, max_size=4))
def test_no_value_that_is_found_survives_anywhere(parts: list[tuple[str, str, str]]) -> None:
    row = {f"field {n}": f"{before}{value}{after}" for n, (before, value, after) in enumerate(parts)}
    values = {text[start:end] for text in row.values() for start, end, _ in find(text, LIMITS)}

    redacted = redact(row, LIMITS)
    tally = PrivacyTally(LIMITS)
    tally.add(redacted)

    left = list(redacted.tree.values())
    assert all(find(text, LIMITS) == [] for text in left)
    assert not [value for value in values for text in left if value in text]
    excerpts = [
        flaw.at("a:1").model_dump_json()
        for text in left
        for flaw in judge(Subject(user=text, answer=text), RuleLimits(max_prompt_chars=5))
    ]
    report = tally.report().model_dump_json()
    assert not [value for value in values if any(value in shown for shown in (*excerpts, report))]


@settings(deadline=None)
@given(PLAIN, VALUES, PLAIN)
def test_no_value_survives_in_the_excerpt_of_a_row_that_could_not_be_read(before: str, value: str, after: str) -> None:
    text = f"{before} {value} {after}"
    flaw = redact_flaw(Flaw("json-broken", None, text, f"no JSON: {text}"), LIMITS)

    shown = flaw.at("a:1")

    for start, end, _ in find(text, LIMITS):
        assert text[start:end] not in shown.excerpt
        assert text[start:end] not in shown.reason


@settings(deadline=None)
@given(st.text(max_size=200))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    once = redact(text, LIMITS)

    assert once.refusal is None
    assert redact(once.tree, LIMITS).tree == once.tree


def test_a_row_that_cannot_be_cleaned_shows_nothing() -> None:
    text = " ".join(f"client{number}@magasin.ca" for number in range(300))

    flaw = redact_flaw(Flaw("json-broken", None, text, f"no JSON: {text}"), LIMITS)

    assert flaw.value == "<REDACTED>"
    assert "@" not in flaw.reason


BAIT = [
    "1234567890 ", "514-987-1234 ", "a@", "a@b.", "1.2.3.4.", "AB12", "GB29 ", "+1 ", "((5) ", "4111 ", "1", "A1A 1A1 ",
    "1 rue A ", "1 rue de la ", "x:y:", "::", "password=", "://a:b", "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaa.", "sk-a",
    "TREM 8551 ", "é.é@é.",
]  # fmt: skip


@pytest.mark.parametrize("bait", BAIT)
def test_no_text_makes_the_search_quadratic(bait: str) -> None:
    def seconds(size: int) -> float:
        text = (bait * size)[:size]
        start = time.process_time()
        find(text, LIMITS)
        return time.process_time() - start

    for _ in range(3):
        first, second = (min(seconds(size) for _ in range(2)) for size in (5_000, 20_000))
        if second < 0.004 or second < 9 * first:
            return
    pytest.fail(f"{first:.4f} s for 5,000 characters, {second:.4f} s for 20,000")


def test_every_kind_has_its_example() -> None:
    assert {kind for kind, _ in PERSONAL} == set(get_args(PersonalKind)) - {"name"}
