"""YAML files from outside: bounded, safe, one value a key, every mistake with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from core.errors import BadConfig

MAX_CONFIG_BYTES = 1 << 20


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping; BadConfig with line and column when it does not parse."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise BadConfig(f"{path} has > {MAX_CONFIG_BYTES} bytes", remedy="A configuration is small; name the right file.")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path} is not UTF-8 at byte {error.start}", remedy="Save the file as UTF-8.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = getattr(error, "problem", None) or "it does not parse"
        raise BadConfig(f"{path} is not YAML{where}: {why}", remedy="Mend that line.") from error
    except (ValueError, RecursionError) as error:
        raise BadConfig(f"{path} is not YAML that can be read: {_first_line(error)}", remedy="Mend the file.") from error
    if not isinstance(tree, dict):
        raise BadConfig(f"{path} holds no mapping of keys", remedy="Write `key: value` lines.")
    return tree


class _OneValueAKey(yaml.SafeLoader):
    """YAML without its silent rule that the last of two equal keys counts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str) -> Any:
    """Parse a YAML text; yaml.YAMLError, ValueError or RecursionError for one that cannot be read."""
    return yaml.load(text, Loader=_OneValueAKey)  # noqa: S506 - a SafeLoader


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
