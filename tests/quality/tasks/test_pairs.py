"""Images and captions: what is read, what belongs together, and what is refused with the line that is at fault."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from pictures import cut_short, draw_pictures, zip_folder

from edgeq.errors import ImageError, InputError
from edgeq.quality.tasks import pairs as module
from edgeq.quality.tasks.pairs import MAX_CHARACTERS, Pairs, groups, inverse

BLUE, GREEN, RED = (f"{colour}/{colour}-000.jpg" for colour in ("blue", "green", "red"))
GOOD = {"image": RED, "captions": ["a red square"]}
OTHER = {"image": BLUE, "captions": ["a blue square"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture each of blue, green and red."""
    return draw_pictures(tmp_path / "given", each=1)


def written(folder: Path, *lines: object, name: str = "pairs.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return path


def sets(found: Sequence[frozenset[int]]) -> list[set[int]]:
    return [set(each) for each in found]


def names(pairs: Pairs) -> list[str]:
    return [item.name for item in pairs.images.items]


def test_images_are_in_the_order_of_their_names_and_captions_in_that_of_the_file(folder: Path) -> None:
    red = {"image": RED, "captions": ["a red square", "something red"]}
    pairs = Pairs.open(written(folder, red, "", OTHER, ""))
    assert names(pairs) == [BLUE, RED], "no line names the green one"
    assert pairs.captions == ("a red square", "something red", "a blue square")
    assert sets(pairs.relevant) == [{1}, {1}, {0}]
    assert sets(pairs.captions_of) == [{2}, {0, 1}]
    assert pairs.images.read(pairs.images.items[1]).size == (20, 20)


def test_further_images_are_right_for_the_captions_of_their_line_alone(folder: Path) -> None:
    lines = (
        {"image": RED, "captions": ["warm"], "relevant": [GREEN, GREEN]},
        {"image": RED, "captions": ["red"]},
        {"image": BLUE, "captions": ["blue"]},
    )
    pairs = Pairs.open(written(folder, *lines))
    assert names(pairs) == [BLUE, GREEN, RED]
    assert pairs.captions == ("warm", "red", "blue")
    assert sets(pairs.relevant) == [{1, 2}, {2}, {0}]
    assert sets(pairs.captions_of) == [{2}, {0}, {0, 1}], "the green one has a caption, and no line of its own"
    assert sets(pairs.written) == [{2}, {2}, {0}]


def test_equal_captions_are_one_and_right_for_the_images_of_each(folder: Path) -> None:
    lines = (
        {"image": RED, "captions": ["A  square", "red"]},
        {"image": BLUE, "captions": [" a square ", "blue", "Blue"]},
        {"image": GREEN, "captions": ["a square."]},
    )
    pairs = Pairs.open(written(folder, *lines))
    assert pairs.captions == ("A  square", "red", "blue", "a square."), "as they were written first"
    assert sets(pairs.relevant) == sets(pairs.written) == [{0, 2}, {2}, {0}, {1}]


def test_a_folder_a_zip_a_zip_beside_the_file_and_a_file_of_another_name_are_the_same(folder: Path) -> None:
    path = written(folder, GOOD, OTHER)
    ours = Pairs.open(path)
    packed = zip_folder(folder, folder.parent / "all.zip")
    path.unlink()
    images = zip_folder(folder, folder.parent / "cats.zip")
    places = [
        written(folder, GOOD, OTHER).parent,
        packed,
        written(folder.parent, GOOD, OTHER, name="cats.jsonl"),
        written(folder, GOOD, OTHER, name="mine.jsonl"),
    ]
    for place in places:
        found = Pairs.open(place)
        assert (names(found), found.captions, found.relevant) == (names(ours), ours.captions, ours.relevant)
        assert found.images.read(found.images.items[0]).tobytes() == ours.images.read(ours.images.items[0]).tobytes()
    assert Pairs.open(places[2]).images.path == images


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1, 2]", "object"),
        ("{", "JSON"),
        ({"image": RED}, "captions: Field required"),
        ({"captions": ["a"]}, "image: Field required"),
        ({**GOOD, "image": " "}, "image: it is empty"),
        ({**GOOD, "captions": []}, "captions: it is empty"),
        ({**GOOD, "captions": ["a", " \t"]}, "captions.1: it is empty"),
        ({**GOOD, "captions": "a red square"}, "captions: "),
        ({**GOOD, "captions": [7]}, "captions.0: "),
        ({**GOOD, "captions": ["a" * (MAX_CHARACTERS + 1)]}, "captions.0: "),
        ({**GOOD, "relevant": [""]}, "relevant.0: it is empty"),
        ({**GOOD, "caption": "red"}, "caption: no such key is known"),
    ],
)
def test_a_bad_line_is_named(folder: Path, line: object, words: str) -> None:
    path = written(folder, GOOD, "", line)
    with pytest.raises(InputError) as caught:
        Pairs.open(path)
    assert f"{path}, line 3: " in caught.value.what
    assert words in caught.value.what
    assert len(str(caught.value)) < 2000


def test_the_longest_caption_is_read(folder: Path) -> None:
    pairs = Pairs.open(written(folder, OTHER, {**GOOD, "captions": ["a" * MAX_CHARACTERS]}))
    assert len(pairs.captions[1]) == MAX_CHARACTERS


@pytest.mark.parametrize("key", ["image", "relevant"])
@pytest.mark.parametrize("name", ["../secret.jpg", "red/../../secret.jpg", "red/red-007.jpg", "red", "notes.txt"])
def test_an_image_that_is_not_there_is_named(folder: Path, name: str, key: str) -> None:
    (folder.parent / "secret.jpg").write_bytes((folder / RED).read_bytes())
    (folder / "notes.txt").write_text("no picture")
    path = written(folder, OTHER, {**GOOD, key: name if key == "image" else [name]})
    with pytest.raises(ImageError) as caught:
        Pairs.open(path)
    assert f"{path}, line 2: there is no image {name}" in caught.value.what


def test_an_image_that_is_none_is_named_with_the_line_that_names_it_first(folder: Path) -> None:
    (folder / "false.jpg").write_text("no picture")
    path = written(folder, OTHER, {**GOOD, "relevant": ["false.jpg"]}, {**GOOD, "image": "false.jpg"})
    with pytest.raises(ImageError, match=r"header of false\.jpg") as caught:
        Pairs.open(path)
    assert f"{path}, line 2: " in caught.value.what


def test_an_image_that_no_line_names_may_be_damaged(folder: Path) -> None:
    cut_short(folder / GREEN)
    (folder / "false.jpg").write_text("no picture")
    assert len(Pairs.open(written(folder, GOOD, OTHER)).images) == 2


def test_a_file_that_is_missing_empty_or_not_text(folder: Path) -> None:
    for place in (folder / "none.jsonl", folder, folder / "none.zip"):
        with pytest.raises(InputError, match="cannot be read"):
            Pairs.open(place)
    with pytest.raises(InputError, match="has no line"):
        Pairs.open(written(folder, "", " "))
    path = folder / "latin.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"image": "r\xe9d.jpg", "captions": ["?"]}')
    with pytest.raises(InputError, match="line 2: "):
        Pairs.open(path)
    (folder / "pairs.jsonl").unlink()
    (folder / "pairs.jsonl").mkdir()
    with pytest.raises(InputError, match="is not a file"):
        Pairs.open(folder)


def test_a_zip_without_the_file_or_cut_short(folder: Path) -> None:
    with pytest.raises(InputError, match=r"has no pairs\.jsonl"):
        Pairs.open(zip_folder(folder, folder.parent / "bare.zip"))
    written(folder, GOOD, OTHER)
    packed = zip_folder(folder, folder.parent / "half.zip")
    cut_short(packed)
    with pytest.raises(ImageError, match="not a whole zip"):
        Pairs.open(packed)


@pytest.mark.parametrize(
    "lines",
    [
        ({**GOOD, "captions": ["one", "two"]},),
        ({**GOOD, "captions": ["same"]}, {**OTHER, "captions": ["Same"]}),
    ],
)
def test_one_image_or_one_caption_leaves_no_choice(folder: Path, lines: tuple[object, ...]) -> None:
    with pytest.raises(InputError, match="nothing to choose from"):
        Pairs.open(written(folder, *lines))


@pytest.mark.parametrize(
    ("limit", "most", "words"),
    [
        ("MAX_LINES", 2, "lines"),
        ("MAX_CAPTIONS", 5, "captions"),
        ("MAX_PAIRS", 8, "pairs of caption and image"),
        ("MAX_JSON_BYTES", 250, "too long"),
    ],
)
def test_limits_are_found_before_an_image_is_looked_at(
    folder: Path, limit: str, most: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 lines, 6 captions, and 2 x 3 + 1 + 1 + 2 pairs."""
    lines = (
        {"image": RED, "captions": ["red", "warm"], "relevant": [GREEN, BLUE]},
        {"image": BLUE, "captions": ["blue"]},
        {"image": GREEN, "captions": ["green"]},
        {"image": "gone.jpg", "captions": ["gone", "lost"]},
    )
    path = written(folder, *lines)
    assert path.stat().st_size > 250
    monkeypatch.setattr(module, limit, most)
    with pytest.raises(InputError, match=words) as caught:
        Pairs.open(path)
    assert "gone" not in caught.value.what
    assert f"at most {most}" in caught.value.expected


def test_just_at_the_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(folder, {**GOOD, "relevant": [GREEN]}, OTHER, "")
    limits = {"MAX_LINES": 2, "MAX_CAPTIONS": 2, "MAX_PAIRS": 3, "MAX_JSON_BYTES": path.stat().st_size}
    for name, most in limits.items():
        monkeypatch.setattr(module, name, most)
    assert len(Pairs.open(path).images) == 3


def test_a_byte_order_mark_is_no_fault(folder: Path) -> None:
    path = written(folder, GOOD, OTHER)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Pairs.open(path).captions == ("a red square", "a blue square")


def test_the_inverse_of_what_is_right() -> None:
    relevant = [frozenset({0, 2}), frozenset({2}), frozenset({1})]
    assert sets(inverse(relevant, 4)) == [{0}, {2}, {0, 1}, set()]
    assert inverse(inverse(relevant, 3), 3) == tuple(relevant)


def test_groups_hang_together_at_any_remove() -> None:
    """0-3 by the first caption, 3-4 by the third: 0, 3 and 4 are one group; 1 and 2 are on their own."""
    relevant = [frozenset({0, 3}), frozenset({1}), frozenset({3, 4}), frozenset({2}), frozenset({1})]
    of_captions, of_images = groups(relevant, 5)
    assert of_images.tolist() == [of_images[0], of_images[1], of_images[2], of_images[0], of_images[0]]
    assert sorted({*of_images.tolist()}) == [0, 1, 2]
    assert of_captions.tolist() == [of_images[0], of_images[1], of_images[0], of_images[2], of_images[1]]


def test_two_groups_that_are_tied_by_their_last_images_are_one() -> None:
    of_captions, of_images = groups([frozenset({0, 3}), frozenset({1, 4}), frozenset({3, 4}), frozenset({2})], 5)
    one, other = of_images[0], of_images[2]
    assert one != other
    assert of_images.tolist() == [one, one, other, one, one]
    assert of_captions.tolist() == [one, one, one, other]
