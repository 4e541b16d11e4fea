"""The builtin source `builtin:python-docs`: questions about Python's standard library, answered by its own docstrings.

Everything comes from the running interpreter, so another Python version gives other bytes; their hash is recorded.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from types import ModuleType

from core.errors import NoRowsLeft

NAME = "builtin:python-docs"
FILE = "builtin-python-docs.jsonl"
LICENCE = "PSF-2.0"  # that of the interpreter the texts come from
TITLE = "Questions about Python's standard library"
ABOUT = (
    "What a function, class or method of Python's standard library does, each with the first sentences of its own docstring as "
    "context. The answers are still to be written by a teacher model that sees the context, for a student that will not."
)
SYSTEM = "Answer the question from the documentation in one sentence."

_MIN_CHARS = 40
_MAX_CHARS = 400
_MIN_WORDS = 6

# Modules that import without a warning, a window or a side effect on Python 3.11 to 3.13.
_MODULE_NAMES = """
abc argparse array ast asyncio base64 bisect bz2 calendar cmath cmd code codecs codeop collections colorsys compileall
concurrent.futures configparser contextlib contextvars copy copyreg csv ctypes.util dataclasses datetime decimal difflib
dis doctest email.header email.message email.policy email.utils enum errno fileinput filecmp fnmatch fractions ftplib
functools gc getpass gettext glob graphlib gzip hashlib heapq hmac html html.parser http.client http.cookies http.server
imaplib importlib importlib.metadata importlib.resources importlib.util inspect io ipaddress itertools json keyword
linecache locale logging logging.config logging.handlers lzma mailbox marshal math mimetypes mmap modulefinder
multiprocessing.pool netrc numbers operator os os.path pathlib pdb pickle pickletools pkgutil platform plistlib poplib
posixpath pprint profile pstats pyclbr pydoc queue quopri random re reprlib runpy sched secrets selectors shelve shlex
shutil signal site smtplib socket socketserver sqlite3 ssl stat statistics string stringprep struct subprocess symtable
sys sysconfig tarfile tempfile textwrap threading time timeit token tokenize trace traceback tracemalloc types typing
unicodedata unittest unittest.mock urllib.error urllib.parse urllib.request urllib.robotparser uuid venv warnings wave
weakref webbrowser wsgiref.headers wsgiref.util xml.dom.minidom xml.etree.ElementTree xml.sax.saxutils xmlrpc.client
zipapp zipfile zipimport zlib zoneinfo
"""
_TYPES = (bytearray, bytes, dict, frozenset, list, range, set, slice, str, tuple)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_NOISE = re.compile(r">>>|\.\. |::|\bdeprecated\b|--|https?:", re.IGNORECASE)


def generate(rows: int) -> bytes:
    """Return that many records as JSONL, always the same for one interpreter; fewer rows are the first of more.

    The order is by the hash of each name, so that any number of rows is a mix of modules. NoRowsLeft when the
    interpreter documents fewer.
    """
    texts = {name: text for name, doc in _documented() if (text := _extract(doc))}
    unique = {text: name for name, text in sorted(texts.items(), reverse=True)}
    names = sorted(unique.values(), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(names) < rows:
        raise NoRowsLeft(
            f"{NAME} has {len(names)} rows < data.builtin_rows {rows} in this Python", remedy="Ask for fewer rows."
        )
    return "".join(_record(name, texts[name]) for name in names[:rows]).encode()


def _record(name: str, text: str) -> str:
    record = {
        "system_hint": SYSTEM,
        "user": f"What does `{name}` do in Python? Answer in one sentence.",
        "context": text,
        "requires_json": False,
        "goal": f"Say what {name} does, as its documentation says.",
        "tags": ["python", name.rpartition(".")[0]],
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def _documented() -> Iterator[tuple[str, str]]:
    for kind in _TYPES:
        yield from _members(kind.__name__, kind)
    for module_name in _MODULE_NAMES.split():
        module = _import(module_name)
        if module:
            yield from _public(module)


def _import(name: str) -> ModuleType | None:
    """Import a module; a small Python build lacks some, such as sqlite3 or lzma."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _public(module: ModuleType) -> Iterator[tuple[str, str]]:
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    for name in names:
        thing = vars(module).get(name)
        home = getattr(thing, "__module__", None)
        if (inspect.isroutine(thing) or inspect.isclass(thing)) and home in {module.__name__, f"_{module.__name__}"}:
            yield from _own(f"{module.__name__}.{name}", thing)
            if inspect.isclass(thing):
                yield from _members(f"{module.__name__}.{name}", thing)


def _members(prefix: str, kind: type) -> Iterator[tuple[str, str]]:
    for name, thing in vars(kind).items():
        if not name.startswith("_") and inspect.isroutine(thing):
            yield from _own(f"{prefix}.{name}", thing)


def _own(name: str, thing: object) -> Iterator[tuple[str, str]]:
    doc = getattr(thing, "__doc__", None)
    if isinstance(doc, str):
        yield name, inspect.cleandoc(doc)


def _extract(doc: str) -> str | None:
    """Return the first paragraph that tells something, cut at a sentence's end; None when there is none."""
    for paragraph in re.split(r"\n\s*\n", doc)[:2]:
        text = _cut(" ".join(paragraph.split()))
        if text and len(text) >= _MIN_CHARS and len(text.split()) >= _MIN_WORDS and not _NOISE.search(text):
            return text
    return None


def _cut(text: str) -> str | None:
    ends = [match.end() for match in _SENTENCE_END.finditer(text[: _MAX_CHARS + 1]) if match.end() <= _MAX_CHARS]
    return text[: ends[-1]] if ends and text[0].isupper() else None
