"""Asks one address within a time: whether there is a way to it, and what it answers. Proxies of the environment are used."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import socket
import time
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, getproxies, proxy_bypass, urlopen

from core.contract import Contract

_MAX_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 16
_PORTS = {"http": 80, "https": 443}
NO_WAY = "no way there"

WayKind = Literal["open", "no-way", "refused", "silent", "no-address"]


class Way(Contract):
    """Whether a connection to an address's host, or to the proxy before it, opens; `problem` None is an open one."""

    kind: WayKind
    host: str
    problem: str | None = None


class Answer(Contract):
    """What an address answered: its status and JSON; `problem` says why there is none of either."""

    status: int | None
    body: Any = None
    problem: str | None = None
    seconds: float


def is_here(host: str) -> bool:
    """Whether a host is this machine by its name or number alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: str) -> str:
    """Return an address as it may be told: without user, password and query; of one that does not parse only the host."""
    scheme, sign, rest = url.partition("://") if "://" in url else ("", "", url)
    rest = re.split(r"[?#]", rest.rpartition("@")[2])[0]  # the last @: a password may hold others, and slashes
    try:
        parts = urlsplit(f"//{rest}")
        whole = bool(sign) and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    return f"{scheme}{sign}{rest if whole else re.split('[:/]', rest)[0]}"


def way_to(url: str, within_s: float) -> Way:
    """Open a connection to where a request to the address would go first, and close it again."""
    host, there, what = "", "", ""
    try:
        asked = urlsplit(url)
        host = asked.hostname or ""
        proxy = getproxies().get(asked.scheme)
        if proxy and not proxy_bypass(host):
            asked, what = urlsplit(proxy), f" (the proxy of {asked.scheme}_proxy)"
        port = asked.port or _PORTS[asked.scheme]
        there = f"{asked.hostname or ''}:{port}{what}"  # never netloc: it may hold a password
        socket.create_connection((asked.hostname or "", port), timeout=within_s).close()
    except (KeyError, ValueError, UnicodeError):  # their texts repeat the address
        problem = f"{shown(url)!r} is no http address, or its proxy's is none"
        return Way(kind="no-address", host=host, problem=problem)
    except ConnectionRefusedError:
        return Way(kind="refused", host=host, problem=f"{there} refused the connection: nothing listens there")
    except TimeoutError:
        return Way(kind="silent", host=host, problem=f"{there} did not take the connection within {within_s:g} s")
    except OSError as error:  # a name that does not resolve, a network that is not there
        return Way(kind="no-way", host=host, problem=f"{NO_WAY}, to {there}: {error.strerror or error}")
    return Way(kind="open", host=host)


def get(url: str, within_s: float, headers: dict[str, str] | None = None) -> Answer:
    """Fetch a JSON document; any status and any trouble is an answer, and all of it takes no longer than `within_s`."""
    started = time.perf_counter()

    def answer(status: int | None, body: Any = None, problem: str | None = None) -> Answer:
        return Answer(status=status, body=body, problem=problem, seconds=time.perf_counter() - started)

    try:
        with urlopen(_request(url, headers or {}), timeout=within_s) as response:  # noqa: S310 - the user's setting
            data = _body(response, started + within_s)
            return answer(response.status, json.loads(data))
    except HTTPError as error:
        return answer(error.code, problem=f"status {error.code} {error.reason}")
    except TimeoutError:
        return answer(None, problem=f"no whole answer within {within_s:g} s")
    except InvalidURL:  # its text repeats the address
        return answer(None, problem=f"{shown(url)!r} is no http address")
    except (URLError, HTTPException, OSError) as error:
        return answer(None, problem=f"the connection broke: {' '.join(str(error).split())[:200]}")
    except ValueError:
        return answer(200, problem="its answer is not JSON")


def _request(url: str, headers: dict[str, str]) -> Request:
    """Return a request as HTTP clients make it: user and password of the address go into a header."""
    parts = urlsplit(url)
    if parts.username is None:
        return Request(url, headers=headers)  # noqa: S310 - the user's setting
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    basic = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return Request(bare, headers={**basic, **headers})  # noqa: S310 - the user's setting


def _body(response: HTTPResponse, deadline: float) -> bytes:
    """Read a whole body; TimeoutError when its bytes only drip, ValueError when they never end."""
    data = b""
    while chunk := response.read1(_CHUNK_BYTES):
        data += chunk
        if time.perf_counter() > deadline:
            raise TimeoutError
        if len(data) > _MAX_BYTES:
            raise ValueError
    return data
