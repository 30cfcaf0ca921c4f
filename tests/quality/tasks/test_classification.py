"""Figures of agreement against answers counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.errors import EngineError, ImageError, ModelError
from edgeq.quality.tasks.classification import Judged, compare_classifiers, label_indices

PIXELS = np.zeros((4, 3, 2, 2), np.float32)
TRUTH = np.array([0, 1, 0, 1], np.int64)


def network(answers: list[int], features: list[list[float]] | None = None) -> Judged:
    """A made-up network that gives the logits [1, 0] or [0, 1], whatever it sees."""
    logits = np.eye(2, dtype=np.float32)[answers]
    held = np.ones((len(answers), 2), np.float32) if features is None else np.array(features, np.float32)
    return lambda _pixels: (logits, held)


def batches(count: int = 1) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    return [(TRUTH, PIXELS)] * count


def test_figures_counted_by_hand() -> None:
    # The reference misses the last image, the candidate the second one.
    result = compare_classifiers(network([0, 1, 0, 0]), network([0, 0, 0, 1]), batches())
    assert (result.images, result.top1_reference, result.top1_candidate, result.drop) == (4, 75.0, 75.0, 0.0)
    assert (result.only_reference_right, result.only_candidate_right) == (1, 1)
    assert result.agreement == 50.0
    # Two of four images differ, each by (1, -1): sqrt(4 / 4).
    assert result.logit_error == pytest.approx(1.0)
    # Two discordant pairs of four, no mean difference: sqrt(0.5 / 4) = 35.36 points.
    assert result.drop_standard_error == pytest.approx(100 * math.sqrt(0.5 / 4))


def test_equal_networks_differ_in_nothing() -> None:
    result = compare_classifiers(network([0, 1, 0, 0]), network([0, 1, 0, 0]), batches(3))
    assert (result.images, result.drop, result.agreement, result.logit_error) == (12, 0.0, 100.0, 0.0)
    assert result.drop_standard_error == 0.0
    assert result.feature_cosine_worst == pytest.approx(1.0)


def test_cosine_per_image_mean_and_worst() -> None:
    ours = network([0] * 4, [[1, 0], [1, 0], [0, 0], [0, 0]])
    theirs = network([0] * 4, [[2, 0], [1, 1], [0, 0], [1, 0]])
    result = compare_classifiers(ours, theirs, batches())
    # Scaled: 1. Turned by 45 degrees: 1 / sqrt 2. Both zero: 1. One of them zero: 0.
    assert result.feature_cosine_mean == pytest.approx((2 + 1 / math.sqrt(2)) / 4)
    assert result.feature_cosine_worst == 0.0


def test_progress_is_told() -> None:
    seen: list[int] = []
    compare_classifiers(network([0] * 4), network([0] * 4), batches(2), advance=seen.append)
    assert seen == [4, 4]


def test_no_images_is_an_error() -> None:
    with pytest.raises(ImageError):
        compare_classifiers(network([]), network([]), [])


def test_nan_is_an_error_that_names_the_network() -> None:
    def broken(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.full((len(pixels), 2), np.nan, np.float32), np.ones((len(pixels), 2), np.float32)

    with pytest.raises(EngineError, match="INT8 network gave NaN"):
        compare_classifiers(network([0] * 4), broken, batches())


@pytest.mark.parametrize(
    ("folders", "labels", "expected"),
    [
        (["dog", "cat"], ("cat", "dog"), {"dog": 1, "cat": 0}),
        (["Tabby Cat"], ("dog", "tabby_cat"), {"Tabby Cat": 1}),
        (["1", "0"], None, {"1": 1, "0": 0}),
        (["b", "a"], None, {"a": 0, "b": 1}),
    ],
)
def test_folders_are_matched_to_logits(
    folders: list[str], labels: tuple[str, ...] | None, expected: dict[str, int]
) -> None:
    assert label_indices(folders, labels, 2) == expected


def test_numbers_in_front_and_one_of_several_names() -> None:
    labels = ("tench, Tinca tinca", "goldfish", "crane, bird", "crane, machine")
    folders = ["001.tench", "1-goldfish", "tinca_tinca", "bird"]
    assert label_indices(folders, labels, 4) == {"001.tench": 0, "1-goldfish": 1, "tinca_tinca": 0, "bird": 2}
    with pytest.raises(ImageError, match="1 of 1 folders are no class of the model: crane"):
        label_indices(["crane"], labels, 4)


def test_numbered_names_in_the_config() -> None:
    assert label_indices(["Black footed Albatross", "2"], ("001.Black_footed_Albatross", "002.Auklet", "x"), 3) == {
        "Black footed Albatross": 0,
        "2": 2,
    }


def test_wordnet_ids_count_in_their_order_where_all_are_there() -> None:
    labels = ("tench", "goldfish", "shark")
    folders = ["n01484850", "n01440764", "n01443537"]
    assert label_indices(folders, labels, 3) == {"n01440764": 0, "n01443537": 1, "n01484850": 2}
    with pytest.raises(ImageError, match="2 of 2 folders are no class of the model: n01484850"):
        label_indices(folders[:2], labels, 3)


def test_a_folder_that_is_no_class_is_an_error() -> None:
    with pytest.raises(ImageError, match=r"1 of 2 folders are no class of the model: bird"):
        label_indices(["bird", "cat"], ("cat", "dog"), 2)


def test_fewer_folders_than_classes_are_not_guessed_at() -> None:
    with pytest.raises(ImageError):
        label_indices(["a", "b"], None, 3)


def test_labels_of_another_model_are_an_error() -> None:
    with pytest.raises(ModelError, match="names 3 classes, the network has 2 logits"):
        label_indices(["a"], ("a", "b", "c"), 2)
