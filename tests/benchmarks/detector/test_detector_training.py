"""The detector's network, loss and training: boxes as they are decoded, who answers for what, and that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.detector.losses import assign, detection_loss, overlap
from benchmarks.detector.network import BINS, STRIDES, Detector, Raw, anchors, box_of
from benchmarks.detector.scenes import LABELS, SIDE, draw_scenes
from benchmarks.detector.train import Settings, Training

ANCHORS = sum((SIDE // stride) ** 2 for stride in STRIDES)


def test_anchors_are_the_middles_of_places() -> None:
    places, strides = anchors()
    pixels = places * strides[:, None]
    assert pixels.shape == (ANCHORS, 2)
    assert pixels[0].tolist() == [4, 4]
    assert pixels[1].tolist() == [12, 4]
    assert pixels[-1].tolist() == [SIDE - 16, SIDE - 16]


def test_a_box_is_so_many_strides_around_its_anchor() -> None:
    """Logits that name one bin for each edge: 1, 2, 3 and 4 strides of 8 pixels away from (4, 12)."""
    edges = torch.full((1, 4, BINS), -1000.0)
    edges[0, torch.arange(4), torch.tensor([1, 2, 3, 4])] = 0
    box = box_of(edges, torch.tensor([[0.5, 1.5]]), torch.tensor([8.0]))
    assert box.tolist() == [[4 - 8, 12 - 16, 4 + 24, 12 + 32]]


def test_the_output_has_middles_sizes_and_scores_of_the_same_boxes() -> None:
    torch.manual_seed(0)
    network = Detector().eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        output, raw = network(images), network.raw(images)
    assert output.shape == (2, 4 + len(LABELS), ANCHORS)
    corners = box_of(raw.edges, *anchors())
    middles, sizes = output[:, :2].transpose(1, 2), output[:, 2:4].transpose(1, 2)
    torch.testing.assert_close(torch.cat([middles - sizes / 2, middles + sizes / 2], 2), corners, atol=1e-3, rtol=0)
    torch.testing.assert_close(output[:, 4:].transpose(1, 2), raw.scores.sigmoid())


def test_it_has_two_to_four_million_parameters() -> None:
    assert 2e6 <= sum(weight.numel() for weight in Detector().parameters()) <= 4e6


def test_overlap_of_boxes() -> None:
    """A quarter of each is shared: 1 of 7. Middles are sqrt(2) apart in a box of diagonal sqrt(18)."""
    one, other = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0])
    assert float(overlap(one, other)) == pytest.approx(1 / 7)
    assert float(overlap(one, other, complete=True)) == pytest.approx(1 / 7 - 2 / 18)
    assert float(overlap(one, one, complete=True)) == pytest.approx(1)


def test_anchors_inside_a_box_answer_for_it_and_for_its_class() -> None:
    """Three anchors, of which two lie in the box; the better of these is asked for the IoU that it has.

    Agreement is score ** 0.5 * IoU ** 6: 0.5 for the first, which is the best; the second has half the box, 0.5 ** 7.
    """
    middles = torch.tensor([[5.0, 5.0], [6.0, 5.0], [50.0, 50.0]])
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [40.0, 40.0, 60.0, 60.0]]])
    scores = torch.full((1, 3, len(LABELS)), 0.25)
    wanted = torch.tensor([[[2.0, 0.0, 0.0, 10.0, 10.0], [-1.0, -1.0, -1.0, -1.0, -1.0]]])
    found = assign(scores, boxes, wanted, middles)
    assert found.positive.tolist() == [[True, True, False]]
    assert found.scores[0, :, 2].tolist() == pytest.approx([1.0, 0.5**6, 0.0])
    assert found.scores.sum().item() == pytest.approx(1 + 0.5**6)
    assert found.boxes[0, 0].tolist() == [0, 0, 10, 10]


def test_an_image_without_boxes_has_a_loss_of_scores_alone() -> None:
    raw = Raw(torch.zeros(1, ANCHORS, len(LABELS)), torch.zeros(1, ANCHORS, 4, BINS))
    loss = detection_loss(raw, [torch.zeros(0, 5)])
    assert float(loss) == pytest.approx(0.5 * ANCHORS * len(LABELS) * np.log(2), rel=1e-5)


def test_some_steps_lower_the_loss() -> None:
    """The rate does not depend on the time that steps take: it is at its peak from the first on."""
    scenes = draw_scenes(0, 4)
    training = Training(Settings(minutes=1e6, warm_up=0.0, batch=4, workers=1))
    losses = [training.advance(scenes) for _ in range(24)]
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    scenes = draw_scenes(0, 2)
    one = Training(Settings(minutes=1e6, warm_up=0.0, batch=2, workers=1))
    one.advance(scenes)
    one.save(tmp_path / "checkpoint.pt")
    other = Training(Settings(minutes=1e6, warm_up=0.0, batch=2, workers=1))
    other.load(tmp_path / "checkpoint.pt")
    assert (other.step, other.seconds) == (1, one.seconds)
    assert other.advance(scenes) == pytest.approx(one.advance(scenes), rel=1e-4)
    for mine, theirs in zip(one.average.parameters(), other.average.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
