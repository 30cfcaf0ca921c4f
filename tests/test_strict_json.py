"""JSON that two readers could read in two ways is refused, wherever it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Edgeq, assert_refused
from packed import make_bundle, rewrite
from pydantic import Field

from edgeq.artifact import Artifact
from edgeq.bundle.contents import MANIFEST, SIGNATURE
from edgeq.bundle.errors import BundleError, IrregularFileError, SignatureError, UnsafeNameError
from edgeq.bundle.keys import KeyPair
from edgeq.bundle.manifest import write_manifest
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.verify import verify_bundle
from edgeq.errors import ArtifactError, ModelError
from edgeq.files import read_json_object
from edgeq.strict_json import MOST_DEPTH, read_json

DEEP = 100_000

AMBIGUOUS = {
    "a key twice": b'{"a": 1, "a": 2}',
    "a key twice, escaped": b'{"a": 1, "\\u0061": 2}',
    "a key twice, inside": b'{"x": [{"a": {"b": 1, "b": 1}}]}',
    "infinity": b'{"eos_token_id": 1e999}',
    "minus infinity": b'{"a": -1e400}',
    "Python's infinity": b'{"a": Infinity}',
    "Python's NaN": b'{"a": [NaN]}',
    "a huge integer": b'{"a": ' + b"9" * 5000 + b"}",
    "half a pair": b'{"a": "\\ud800"}',
    "half a pair as a key": b'{"\\udfff": 1}',
    "deep lists": b"[" * DEEP,
    "deep lists that end": b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a":' * DEEP,
    "a little too deep": b'{"a": ' + b"[" * MOST_DEPTH + b"]" * MOST_DEPTH + b"}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "no UTF-8": b'{"a": "\xff"}',
    "something behind": b'{"a": 1} {}',
    "a comment": b'{"a": 1 /* one */}',
    "a comma at the end": b'{"a": 1,}',
}


@pytest.mark.parametrize("text", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_can_be_read_in_two_ways(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        read_json(text)
    assert len(str(caught.value)) < 300
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ModelError, match=r"config\.json is not valid JSON"):
        read_json_object(tmp_path / "config.json")


def test_what_is_read() -> None:
    """Escaped text, a whole surrogate pair, the largest `model_max_length` there is, as deep as may be."""
    text = b'{"a": [1, -2.5e3, null, true, "\\u00e9\\ud83d\\ude00"], "b": 1000000000000000019884624838656}'
    assert read_json(text) == {"a": [1, -2500.0, None, True, "é😀"], "b": 1000000000000000019884624838656}
    deep = b"[" * MOST_DEPTH + b"]" * MOST_DEPTH
    assert json.dumps(read_json(deep)).encode() == deep
    with pytest.raises(ValueError, match="BOM"):
        read_json(b"\xef\xbb\xbf{}")
    assert read_json(b"\xef\xbb\xbf{}", mark=True) == {}


class _Settings(Artifact):
    otherwise = "holds no settings"

    version: str = "test/1"
    count: int = 0
    share: float = 0.0
    on: bool = False
    name: str | None = None
    inside: dict[str, tuple[int, ...]] = Field(default_factory=dict)


@pytest.mark.parametrize(
    "value",
    [
        {"count": "595"},
        {"count": 595.0},
        {"count": True},
        {"share": "0.5"},
        {"on": 1},
        {"on": "yes"},
        {"inside": {"a": [1, "2"]}},
        {"inside": {"a": [1, 2.0]}},
    ],
)
def test_no_value_is_brought_into_another_type(value: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"version": "test/1", **value}))
    with pytest.raises(ArtifactError, match="holds no settings"):
        _Settings.load(tmp_path / "settings.json")


def test_values_of_their_own_type(tmp_path: Path) -> None:
    """A whole number is a number, too, and exponents are how some write floats."""
    (tmp_path / "settings.json").write_text('{"version": "test/1", "count": 5, "share": 1, "inside": {"a": [3]}}')
    found = _Settings.load(tmp_path / "settings.json")
    assert (found.count, found.share, found.inside) == (5, 1.0, {"a": (3,)})


@pytest.mark.parametrize("size", ['"5"', "5.0", "0.5e1", "05", "+5", "0x5", "true", "null", "[5]", "5e999"])
def test_sizes_are_integers(tmp_path: Path, edgeq: Edgeq, size: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"a": b"12345"})
    text = (bundle / MANIFEST).read_text()
    assert '"size":5' in text.replace(" ", "")
    (bundle / MANIFEST).write_text(text.replace('"size": 5', f'"size": {size}'))
    assert_refused(edgeq("verify", bundle), "is not a bundle")


def test_a_key_twice_in_a_manifest(tmp_path: Path, edgeq: Edgeq) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"a": b"12345"})
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text.replace('"made_by"', '"kind": "retrieval",\n "made_by"'))
    assert_refused(edgeq("verify", bundle), "is not a bundle", "the key kind comes twice")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Weights", "weights"),
        ("a/Weights", "A/other"),
        ("stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("caf\u00e9/a", "cafe\u0301/b"),
        ("\uff41", "a"),
        ("x", "X/y"),
    ],
)
def test_names_that_are_one_name_elsewhere(tmp_path: Path, first: str, second: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"0": b"", "1": b""})
    for number, name in enumerate((first, second)):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / str(number)).rename(bundle / name)
    rewrite(
        bundle, lambda it: [file.update(name=name) for file, name in zip(it["files"], (first, second), strict=True)]
    )
    with pytest.raises(UnsafeNameError, match="differs in case or Unicode form alone"):
        verify_bundle(bundle)
    with pytest.raises(UnsafeNameError, match="differs in case or Unicode form alone"):
        write_manifest(bundle)


@pytest.mark.parametrize(
    "name",
    ["manifest.json/x", "manifest.sig/x", "MANIFEST.json", "Manifest.Sig", "manifest.JSON/a/b", "manifest.json/"],
)
def test_nothing_lies_below_the_manifest(tmp_path: Path, edgeq: Edgeq, name: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"a": b"12345"})
    rewrite(bundle, lambda content: content["files"][0].update(name=name))
    assert_refused(edgeq("verify", bundle), "names a file")
    assert_refused(edgeq("install", bundle, "--root", tmp_path / "root", "--no-check"), "names a file")


@pytest.mark.parametrize("own", [MANIFEST, SIGNATURE])
def test_a_directory_in_the_place_of_the_manifest(tmp_path: Path, edgeq: Edgeq, own: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"a": b"12345"})
    (bundle / own).unlink(missing_ok=True)
    (bundle / own).mkdir()
    (bundle / own / "x").write_bytes(b"")
    with pytest.raises(IrregularFileError, match="is no plain file"):
        verify_bundle(bundle)
    assert_refused(edgeq("verify", bundle), "is no plain file")
    assert_refused(edgeq("bundle", "pack", bundle, "-o", tmp_path / "b.tar"), "is no plain file")


def _other_bits(signature: str) -> str:
    """The same bytes: the last digit has four bits that stand for nothing."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return signature[:85] + digits[digits.index(signature[85]) + 1] + "=="


@pytest.mark.parametrize(
    "loosen",
    [
        _other_bits,
        lambda text: text + "\n",
        lambda text: f" {text}",
        lambda text: text.rstrip("="),
        lambda text: text + "=",
        lambda text: text[:40] + "\n" + text[40:],
        lambda text: text.replace("+", "-").replace("/", "_") if set(text) & set("+/") else text + "AAAA",
    ],
)
def test_loose_base64(tmp_path: Path, ours: KeyPair, loosen: Callable[[str], str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"a": b"12345"})
    sign_bundle(bundle, ours.private)
    told = json.loads((bundle / SIGNATURE).read_text())
    told["signature"] = loosen(told["signature"])
    (bundle / SIGNATURE).write_text(json.dumps(told))
    with pytest.raises(SignatureError, match="is no signature"):
        verify_bundle(bundle, keys=[ours.public])


def test_a_key_twice_in_a_signature(tmp_path: Path, ours: KeyPair) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"a": b"12345"})
    text = sign_bundle(bundle, ours.private).read_text()
    (bundle / SIGNATURE).write_text(text.replace("{", f'{{"key": "{ours.id}",', 1))
    with pytest.raises(SignatureError, match="is no signature"):
        verify_bundle(bundle, keys=[ours.public])


@pytest.mark.parametrize("text", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_no_such_text_is_a_manifest_or_a_signature(tmp_path: Path, ours: KeyPair, text: bytes) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"a": b"12345"})
    sign_bundle(bundle, ours.private)
    (bundle / SIGNATURE).write_bytes(text[:4000])
    with pytest.raises(SignatureError):
        verify_bundle(bundle, keys=[ours.public])
    (bundle / MANIFEST).write_bytes(text)
    with pytest.raises(BundleError, match="is not a bundle"):
        verify_bundle(bundle)
