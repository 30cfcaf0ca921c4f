"""Lists of keys: who may replace them, and what is none."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeq.bundle.errors import BundleError, KeyListError
from edgeq.bundle.key_list import (
    KeyList,
    ListedKey,
    RevokedKey,
    SignedKeyList,
    accepted,
    check_first,
    load_list,
    next_list,
    sign_list,
)
from edgeq.bundle.keys import KeyPair, load_private, load_public, make_keys
from edgeq.errors import InputError

MADE = "2026-11-29T12:00:00Z"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[KeyPair]:
    """Four pairs; by number."""
    folder = tmp_path_factory.mktemp("pairs")
    return [make_keys(folder / f"key{number}") for number in range(4)]


def listed(pair: KeyPair) -> ListedKey:
    return ListedKey.of(load_public(pair.public))


def signed(keys: KeyList, *signers: KeyPair) -> SignedKeyList:
    made = SignedKeyList.of(keys)
    for pair in signers:
        made = sign_list(made, load_private(pair.private))
    return made


def first(*roots: KeyPair, threshold: int = 1, keys: tuple[KeyPair, ...] = ()) -> KeyList:
    return next_list(
        None, MADE, roots=[*map(listed, roots)], keys=[*map(listed, keys)], revoked=[], threshold=threshold
    )


def after(before: KeyList, *roots: KeyPair, revoked: tuple[KeyPair, ...] = (), threshold: int | None = None) -> KeyList:
    gone = [RevokedKey(id=pair.id, because="gone") for pair in revoked]
    return next_list(before, MADE, roots=[*map(listed, roots)], keys=[], revoked=gone, threshold=threshold)


def test_a_threshold_is_of_different_keys(pairs: list[KeyPair]) -> None:
    """A signature that comes twice counts once, and one that is copied from another list not at all."""
    keys = first(pairs[0], pairs[1], threshold=2)
    roots = [load_public(pair.public) for pair in pairs]
    once = signed(keys, pairs[0])
    twice = once.model_copy(update={"signatures": once.signatures * 2})
    other = signed(after(keys), pairs[1])
    copied = once.model_copy(update={"signatures": (*once.signatures, *other.signatures)})
    for each in (once, twice, copied, signed(keys, pairs[0], pairs[2], pairs[3])):
        with pytest.raises(KeyListError, match="signed by 1 of"):
            check_first(each, roots, "list")
    assert check_first(signed(keys, pairs[0], pairs[1]), roots, "list") == keys
    with pytest.raises(KeyListError, match="signed by 1 of"):
        check_first(signed(keys, pairs[0], pairs[1]), roots[:1], "list")


def test_the_root_keys_before_and_the_new_ones_must_sign(pairs: list[KeyPair]) -> None:
    before = first(pairs[0], keys=(pairs[3],))
    new = after(before, pairs[1], revoked=(pairs[0],))
    assert [key.id for key in new.roots] == [pairs[1].id]
    with pytest.raises(KeyListError, match="the root keys known so far"):
        accepted(signed(new, pairs[1]), before, "list")
    with pytest.raises(KeyListError, match="its own root keys"):
        accepted(signed(new, pairs[0]), before, "list")
    assert accepted(signed(new, pairs[0], pairs[1]), before, "list") == new


def test_a_higher_threshold_is_met_at_once_and_a_lower_one_by_the_old(pairs: list[KeyPair]) -> None:
    one = first(pairs[0], pairs[1], threshold=2)
    lower = after(one, threshold=1)
    with pytest.raises(KeyListError, match="known so far"):
        accepted(signed(lower, pairs[0]), one, "list")
    higher = after(lower, pairs[2], threshold=3)
    with pytest.raises(KeyListError, match="its own"):
        accepted(signed(higher, pairs[0], pairs[1]), lower, "list")
    assert accepted(signed(higher, *pairs[:3]), lower, "list") == higher


def test_numbers_rise(pairs: list[KeyPair]) -> None:
    """Some may be left out; the same list again is no change, another one with its number a fork."""
    one = first(pairs[0])
    two, fork = after(one), after(one, pairs[1])
    three = after(two)
    assert accepted(signed(three, pairs[0]), one, "list").number == 3
    assert accepted(signed(two, pairs[0]), two, "list") == two
    for old, known in ((one, two), (two, three), (fork, two)):
        with pytest.raises(KeyListError, match=f"is list {old.number}, and list {known.number} is known"):
            accepted(signed(old, *pairs), known, "list")


def test_what_is_revoked_is_gone(pairs: list[KeyPair]) -> None:
    one = first(pairs[0], keys=(pairs[2], pairs[3]))
    two = after(one, revoked=(pairs[2],))
    assert ([key.id for key in two.keys], [key.id for key in two.revoked]) == ([pairs[3].id], [pairs[2].id])
    assert after(two).revoked == two.revoked
    with pytest.raises(InputError, match="these keys are no list"):
        after(one, revoked=(pairs[0],))
    with pytest.raises(InputError, match="2 root keys must sign, and there are 1"):
        first(pairs[0], threshold=2)


def test_a_list_that_was_changed_is_not_signed(pairs: list[KeyPair]) -> None:
    made = signed(first(pairs[0]), pairs[0])
    other = made.model_copy(update={"payload": SignedKeyList.of(first(pairs[0], keys=(pairs[1],))).payload})
    with pytest.raises(KeyListError, match="signed by 0 of"):
        check_first(other, [load_public(pairs[0].public)], "list")


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no number": lambda it: it.pop("number"),
    "a number as text": lambda it: it.update(number="1"),
    "a key twice": lambda it: it["keys"].append(it["keys"][0]),
    "a revoked key": lambda it: it["revoked"].append({"id": it["keys"][0]["id"], "because": "x"}),
    "a foreign id": lambda it: it["keys"][0].update(id="0" * 16),
    "half a key": lambda it: it["keys"][0].update(public=it["keys"][0]["public"][:20]),
    "loose base64": lambda it: it["keys"][0].update(public=it["keys"][0]["public"] + "\n"),
    "no root key": lambda it: it.update(roots=[]),
    "too high a threshold": lambda it: it.update(threshold=2),
    "no threshold": lambda it: it.update(threshold=0),
    "a key more": lambda it: it.update(x=1),
    "no moment": lambda it: it.update(made="yesterday"),
    "a name that commands the terminal": lambda it: it["keys"][0].update(name="\x1b[2Jteam"),
    "another version": lambda it: it.update(version="edgeq.keys/2"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_is_no_list(tmp_path: Path, pairs: list[KeyPair], change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(first(pairs[0], keys=(pairs[1],)).model_dump_json())
    change(content)
    payload = base64.b64encode(json.dumps(content).encode()).decode()
    (tmp_path / "keys.json").write_text(json.dumps({"version": "edgeq.signed-keys/1", "payload": payload}))
    with pytest.raises(KeyListError, match="is no list of keys"):
        load_list(tmp_path / "keys.json")


@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, '{"version": "edgeq.signed-keys/1", "payload": "e30"}'])
def test_what_is_no_file_of_a_list(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(KeyListError, match="is no list of keys"):
        load_list(tmp_path / "keys.json")
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(BundleError):
            load_list(missing)
