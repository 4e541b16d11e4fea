"""Paths and keys: confined, reversible, the same for every endpoint."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.errors import ArtifactError, PathEscapes
from core.remote.keys import MAX_KEY_BYTES, key_of, path_of

PARTS = st.text(st.characters(exclude_characters="/\\\x00", exclude_categories=["Cs"]), min_size=1, max_size=12)
PATHS = st.lists(PARTS.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=4).map("/".join)
PREFIXES = st.sampled_from(["", "kiln", "a/b.c"])


@given(PREFIXES, PATHS)
def test_a_key_leads_back_to_its_path_and_stays_below_the_prefix(prefix: str, path: str) -> None:
    key = key_of(prefix, path)
    assert path_of(prefix, key) == path
    assert key.isascii()
    assert key.startswith(f"{prefix}/" if prefix else "")
    assert not {"", ".", ".."} & set(key.split("/"))


@given(PATHS, PATHS)
def test_two_paths_never_share_a_key(one: str, other: str) -> None:
    assume(one != other)
    assert key_of("kiln", one) != key_of("kiln", other)


@given(PREFIXES, st.text(max_size=40))
def test_a_strangers_key_is_a_path_below_the_folder_or_none(prefix: str, key: str) -> None:
    try:
        path = path_of(prefix, key)
    except ArtifactError:
        return
    assert key_of(prefix, path) == key
    assert not {"", ".", ".."} & set(path.split("/"))


@given(st.binary(min_size=1, max_size=20).filter(lambda name: not {b"/"[0], b"\\"[0], 0} & set(name)))
def test_a_name_that_is_not_utf8_survives_too(name: bytes) -> None:
    path = name.decode("utf-8", "surrogateescape")
    assume(path not in {".", ".."})
    assert path_of("kiln", key_of("kiln", path)) == path


@pytest.mark.parametrize("path", ["", "/", "/etc", "..", "a/../b", "a//b", "a/", "./a", "a\\b", "a\x00b", "\ud800"])
def test_what_is_no_path_below_a_folder_has_no_key(path: str) -> None:
    with pytest.raises(PathEscapes):
        key_of("kiln", path)


@pytest.mark.parametrize(
    "key", ["other/a", "kiln", "kiln/", "kiln/..", "kiln/%2e%2e", "kiln/%2F", "kiln/a%", "kiln/a%6", "kiln/a b"]
)
def test_a_key_that_was_never_made_has_no_path(key: str) -> None:
    with pytest.raises(PathEscapes):
        path_of("kiln", key)


def test_a_key_longer_than_s3_takes_is_refused_with_its_length() -> None:
    with pytest.raises(ArtifactError, match=f"> {MAX_KEY_BYTES}"):
        key_of("kiln", "é" * 300)
