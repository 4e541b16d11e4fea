"""Where personal data stands in a text: each kind has a linear pattern and a check (checksum, structure, numbering plan).

Secrets are in secret_patterns.py; what is done with the finds is in privacy.py.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence

from phonenumbers import PhoneNumberMatcher
from stdnum import iban, luhn
from stdnum.ca import sin
from stdnum.es import dni
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.it import codicefiscale
from stdnum.us import ssn

from core.data.linear import Pattern, compiled

Span = tuple[int, int]

_EMAIL = compiled(r"[\pL\pN][\pL\pN._%+\-]*@[\pL\pN\-]+(?:\.[\pL\pN\-]+)*\.\pL\pL+")
_IPV4 = compiled(r"\d{1,3}(?:\.\d{1,3}){3}")
_IPV6 = compiled(r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}")
_CARD = compiled(r"\d(?:[ \-]?\d){12,18}")
_IBAN = compiled(r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")
_IBAN_CHARS = 15  # Norway's, the shortest
_PHONE = compiled(r"[+(]{0,2}\d[\d ().\-\x{a0}]{5,24}\d")
_IDS: tuple[tuple[Pattern, Callable[[str], bool]], ...] = (
    (compiled(r"\d{3}[ \-]\d{3}[ \-]\d{3}"), sin.is_valid),
    (compiled(r"(?i)(?:\bNAS|\bSIN)[ :#]{1,4}\d{9}"), lambda text: bool(sin.is_valid(text[-9:]))),
    (compiled(r"\d{3}-\d{2}-\d{4}"), ssn.is_valid),
    (compiled(r"[1-478] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}"), nir.is_valid),
    (compiled(r"\d{3} \d{3} \d{4}"), nhs.is_valid),
    (compiled(r"[XYZ\d]\d{7}-?[A-Z]"), dni.is_valid),
    (compiled(r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]"), codicefiscale.is_valid),
)
_NINO = compiled(r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]")
_NINO_UNUSED = {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}  # HMRC, National Insurance Manual NIM39110
_RAMQ = compiled(r"[A-Z]{4} ?\d{4} ?\d{4}")
_PLACE = r"\p{Lu}[\pL'’\-]*"
_ADDRESSES = (
    compiled(
        r"\d{1,5}(?: ?[A-Da-d]| bis| ter)?,? (?i:rue|avenue|av\.?|boulevard|boul\.?|bd|chemin|ch\.|route|place|allée|impasse"
        rf"|montée|rang|côte|quai|ruelle) (?:(?:de la|de|du|des|la|le|les|aux) |de l['’]|[dl]['’]){{0,2}}{_PLACE}(?: {_PLACE}){{0,3}}"
    ),
    compiled(
        rf"\d{{1,5}} (?:{_PLACE} ){{1,4}}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Drive|Dr|Lane|Ln|Court|Crescent|Way)\b"
    ),
    compiled(r"[ABCEGHJ-NPRSTVXY]\d[ABCEGHJ-NPRSTV-Z] ?\d[ABCEGHJ-NPRSTV-Z]\d"),  # Canadian postal code: one block
)


def emails_in(text: str) -> Iterator[Span]:
    """Yield e-mail addresses."""
    return (found.span() for found in _EMAIL.finditer(text)) if "@" in text else iter(())


def ips_in(text: str) -> Iterator[Span]:
    """Yield addresses of machines, public and private, IPv4 and IPv6."""
    if "." in text:
        yield from _alone(text, _IPV4, _is_ip)
    if "::" in text or text.count(":") >= 7:
        yield from _alone(text, _IPV6, _is_ipv6)


def cards_in(text: str) -> Iterator[Span]:
    """Yield payment card numbers whose Luhn digit is right."""
    return _alone(text, _CARD, _is_card)


def ibans_in(text: str) -> Iterator[Span]:
    """Yield bank account numbers whose length and checksum are right."""
    for found in _IBAN.finditer(text):
        start, end = found.span()
        while end - start >= _IBAN_CHARS and (text[end - 1] == " " or not iban.is_valid(text[start:end])):
            end -= 1  # words in capitals may follow
        if end - start >= _IBAN_CHARS and _is_alone(text, start, end):
            yield start, end


def national_ids_in(text: str) -> Iterator[Span]:
    """Yield numbers states give to people: ca, us, fr, gb, es, it; and Québec's health card."""
    for pattern, is_valid in _IDS:
        yield from _alone(text, pattern, is_valid)
    yield from _alone(text, _NINO, lambda value: value[:2] not in _NINO_UNUSED)
    yield from _alone(text, _RAMQ, _is_ramq)


def phones_in(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Yield phone numbers that exist in the numbering plan of a region, or that begin with + and a country code.

    The first region that knows a number decides; one region a country code is enough.
    """
    for found in _PHONE.finditer(text):
        start, end = found.span()
        if not _is_alone(text, start, end):
            continue
        shown = text[start:end]
        if shown.startswith("(") and ")" not in shown:
            start, shown = start + 1, shown[1:]
        for region in regions:
            if spans := [(start + match.start, start + match.end) for match in PhoneNumberMatcher(shown, region)]:
                yield from spans
                break


def addresses_in(text: str) -> Iterator[Span]:
    """Yield street addresses with a number and Canadian postal codes; places without a number are left."""
    for pattern in _ADDRESSES:
        yield from _alone(text, pattern, lambda _value: True)


def _alone(text: str, pattern: Pattern, is_valid: Callable[[str], bool]) -> Iterator[Span]:
    for found in pattern.finditer(text):
        start, end = found.span()
        if _is_alone(text, start, end) and is_valid(text[start:end]):
            yield start, end


def _is_alone(text: str, start: int, end: int) -> bool:
    """Say whether what stands there is no part of a longer word or number."""
    before, after = text[max(0, start - 1) : start], text[end : end + 2]
    if before.isalnum() or (after[:1].isalnum() and end > start):
        return False
    return not (len(after) == 2 and after[0] in ".:-" and after[1].isdigit() and end > start)


def _is_ip(value: str) -> bool:
    try:
        return bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _is_ipv6(value: str) -> bool:
    return sum(map(bool, value.split(":"))) >= 3 and _is_ip(value)  # a slice such as [::2] is none


def _is_card(value: str) -> bool:
    digits = value.replace(" ", "").replace("-", "")
    return digits[0] in "23456" and len(set(digits)) > 1 and bool(luhn.is_valid(digits))


def _is_ramq(value: str) -> bool:
    digits = value.replace(" ", "")[4:]
    month, day = int(digits[2:4]) % 50, int(digits[4:6])  # women's months are written plus 50
    return 1 <= month <= 12 and 1 <= day <= 31 and int(digits[2:4]) <= 62
