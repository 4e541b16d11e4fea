"""Takes secrets and personal names out of a text: values of environment variables, credentials, tokens, home, user, host."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

# Variables whose values are no secret and stand in ordinary text: hiding them would only make it unreadable. What is not
# named here is hidden.
_HARMLESS = re.compile(
    r"^(PATH|PWD|OLDPWD|HOME|USER|LOGNAME|SHELL|SHLVL|LANG|LANGUAGE|LC_\w+|TERM|COLORTERM|TZ|EDITOR|PAGER|_|VIRTUAL_ENV"
    r"|PYTHONPATH|PYTHON\w*VERSION|PIP_(CERT|CONFIG_FILE|NO_INDEX|FIND_LINKS)|SSL_CERT_FILE|CUDA_HOME|CUDA_VERSION"
    r"|EDGEKILN_(CACHE|WORKSPACE|PARENT)|XDG_\w+|TMPDIR|LD_LIBRARY_PATH|PYTEST_CURRENT_TEST|DEBIAN_FRONTEND)$"
)
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|CRED|AUTH|COOKIE|WEBHOOK|DSN|APPRISE|URL", re.I)
_SHORTEST_SECRET = 4  # characters; shorter would blank out ordinary words, as in core/sinks.py
_SHORTEST_OTHER = 8  # of a variable whose name says nothing
_NUMBER = re.compile(r"[\d.:,+-]{1,12}")
_HIDDEN = "<hidden>"
_OPEN, _CLOSE = "\x00", "\x01"  # around a variable's name until the end: an address is one word with them, not with <>

_WEB = {"http", "https", "file", "unix", "s3", "git", "ssh", "git+https", "git+ssh"}
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{1,20})://([^\s'\"<>`]+)")
_TOKEN_PART = re.compile(r"(?=[^/?&=#]*\d)(?=[^/?&=#]*[A-Za-z])[A-Za-z0-9_~:-]{20,}")
_QUERY_VALUE = re.compile(r"([?&;][^=&\s]+)=[^&\s]+")
_HOOKS = re.compile(r"^(hooks\.slack\.com|discord(app)?\.com/api/webhooks|api\.telegram\.org|[^/]*webhook[^/]*)(/|$)", re.I)
_PATTERNS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
    re.compile(r"\b(hf_|gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|sk-|pk-|rk_|ya29\.|pypi-|npm_|dckr_pat_)[\w.-]{8,}"),
    re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
    re.compile(r"(?<=\bBearer )[^\s'\"]+", re.I),
    re.compile(r"(?<=\bBasic )[A-Za-z0-9+/=]{8,}", re.I),
)
_ASSIGNED = re.compile(
    r"(?P<name>[\w.-]*(?:password|passwd|secret|api[_-]?key|access[_-]?key|token)\w*)(?P<sign>[\"']?\s*[=:]\s*[\"']?)"
    r"(?P<value>[^\s\"',;}\]]{4,})",
    re.I,
)
# `max_tokens = 96`, `completion_tokens: 12`, `prompt_tokens: null`: counts, not secrets
_COUNT = re.compile(r"^(\d{1,9}(\.\d+)?|null|none|true|false)$", re.I)
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(\.[\w-]+)+\b")


@dataclass(frozen=True)
class Person:
    """Whose machine it is."""

    home: Path
    user: str
    host: str


def redact(text: str, environ: Mapping[str, str], person: Person) -> str:
    """Return a text without secrets and personal names; what is hidden says what it was, not how long."""
    text = text.replace(_OPEN, "").replace(_CLOSE, "")
    for value, name in _values(environ):
        text = text.replace(value, f"{_OPEN}{name}{_CLOSE}")
    text = _URL.sub(_hidden_url, text)
    for pattern in _PATTERNS:
        text = pattern.sub(_HIDDEN, text)
    text = _ASSIGNED.sub(_hidden_assignment, text)
    return _nameless(_EMAIL.sub("<e-mail>", text), person).replace(_OPEN, "<").replace(_CLOSE, ">")


def _values(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what to hide with the variable's name, the longest first, in every form it may be written in."""
    found: dict[str, str] = {}
    for name, value in environ.items():
        if not _HARMLESS.match(name):
            for part in (value, *value.splitlines()):
                if _hides(name, part):
                    found |= dict.fromkeys((part, quote(part, safe=""), json.dumps(part)[1:-1], repr(part)[1:-1]), name)
    return sorted(found.items(), key=lambda pair: -len(pair[0]))


def _hides(name: str, value: str) -> bool:
    if _SECRET_NAME.search(name):
        return len(value.strip()) >= _SHORTEST_SECRET
    return len(value.strip()) >= _SHORTEST_OTHER and _NUMBER.fullmatch(value) is None


def _hidden_url(found: re.Match[str]) -> str:
    """Keep host and path of a web address, and nothing of any other: an Apprise URL is all secret."""
    scheme, rest = found[1], found[2]
    if scheme.lower() not in _WEB:
        return f"{scheme}://{_HIDDEN}"
    place, slash, path = rest.partition("/")
    place = f"{_HIDDEN}@{place.rpartition('@')[2]}" if "@" in place else place
    if _HOOKS.match(f"{place}/{path}"):
        return f"{scheme}://{place}/{_HIDDEN}"
    path = _QUERY_VALUE.sub(rf"\1={_HIDDEN}", path)
    return f"{scheme}://{place}{slash}{path if scheme.lower() in {'file', 'unix'} else _TOKEN_PART.sub(_HIDDEN, path)}"


def _hidden_assignment(found: re.Match[str]) -> str:
    if _COUNT.match(found["value"]) or found["value"].startswith((_OPEN, "<")):
        return found[0]
    return f"{found['name']}{found['sign']}{_HIDDEN}"


def _nameless(text: str, person: Person) -> str:
    homes = {str(person.home), str(person.home.resolve()), quote(str(person.home))} - {"/"}
    for home in sorted(homes, key=len, reverse=True):
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    for name, shown in ((person.user, "<user>"), (person.host, "<host>")):
        if len(name) > 1 and name != "localhost":
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", shown, text)
    return text
