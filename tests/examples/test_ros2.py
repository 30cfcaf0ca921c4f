"""The node for ROS 2 with made-up messages: ROS 2 itself is not here, and what stands for it is simulated."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from classifier_bundle import classifier_bundle
from pictures import draw_pictures
from PIL import Image

import edgeq

NODE = Path(__file__).resolve().parents[2] / "examples" / "ros2" / "edgeq_node.py"
NOW = SimpleNamespace(nanoseconds=12_500_000_000)


class SimulatedNode:
    """As much of rclpy's Node as is called."""

    parameters: dict[str, Any]

    def __init__(self, name: str) -> None:
        self.name, self.published, self.warned = name, list[Any](), list[str]()
        self.changed = threading.Event()

    def declare_parameter(self, name: str, default: object) -> SimpleNamespace:
        return SimpleNamespace(value=self.parameters.get(name, default))

    def create_publisher(self, _kind: type, topic: str, _depth: int) -> SimpleNamespace:
        assert topic == "~/answer"
        return SimpleNamespace(publish=self._publish)

    def create_subscription(self, _kind: type, topic: str, callback: Callable[[Any], None], _qos: object) -> None:
        assert (topic, callback.__name__) == ("image", "receive")

    def get_logger(self) -> SimpleNamespace:
        return SimpleNamespace(warning=self._warn)

    def get_clock(self) -> SimpleNamespace:
        return SimpleNamespace(now=lambda: NOW)

    def _publish(self, message: Any) -> None:
        self.published.append(json.loads(message.data))
        self.changed.set()

    def _warn(self, told: str) -> None:
        self.warned.append(told)
        self.changed.set()


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the node's module."""
    modules: dict[str, dict[str, Any]] = {
        "rclpy": {},
        "rclpy.executors": {"ExternalShutdownException": RuntimeError},
        "rclpy.node": {"Node": SimulatedNode},
        "rclpy.qos": {"qos_profile_sensor_data": None},
        "sensor_msgs": {},
        "sensor_msgs.msg": {"Image": SimpleNamespace},
        "std_msgs": {},
        "std_msgs.msg": {"String": SimpleNamespace},
    }
    for name, attributes in modules.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    names: dict[str, Any] = {"__name__": "edgeq_node"}
    exec(compile(NODE.read_text(encoding="utf-8"), str(NODE), "exec"), names)
    return names


def message(data: bytes, encoding: str, width: int, height: int, step: int) -> SimpleNamespace:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=12, nanosec=0), frame_id="camera")
    return SimpleNamespace(data=data, encoding=encoding, width=width, height=height, step=step, header=header)


@pytest.mark.parametrize(
    ("encoding", "pixel", "rgb"),
    [
        ("rgb8", (1, 2, 3), (1, 2, 3)),
        ("bgr8", (1, 2, 3), (3, 2, 1)),
        ("rgba8", (1, 2, 3, 4), (1, 2, 3)),
        ("bgra8", (1, 2, 3, 4), (3, 2, 1)),
        ("mono8", (7,), (7, 7, 7)),
    ],
)
def test_pixels_of_a_message(
    example: dict[str, Any], encoding: str, pixel: tuple[int, ...], rgb: tuple[int, int, int]
) -> None:
    """Two rows of three pixels, each row with five bytes behind it."""
    data = (bytes(pixel) * 3 + b"\xff" * 5) * 2
    found = example["to_rgb"](message(data, encoding, 3, 2, 3 * len(pixel) + 5))
    assert (found.shape, found.dtype) == ((2, 3, 3), np.uint8)
    assert (found == rgb).all()


@pytest.mark.parametrize(("encoding", "width", "step"), [("32FC1", 3, 12), ("rgb8", 3, 10), ("rgb8", 9, 9)])
def test_a_message_that_is_not_what_it_says(example: dict[str, Any], encoding: str, width: int, step: int) -> None:
    with pytest.raises(ValueError, match=r"expected one of|bytes for"):
        example["to_rgb"](message(bytes(18), encoding, width, 2, step))


@pytest.fixture
def node(example: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    SimulatedNode.parameters = {"bundle": str(classifier_bundle(tmp_path_factory))}
    made = example["EdgeqNode"]()
    yield made
    made.close()


def test_an_image_is_answered(node: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    picture = draw_pictures(tmp_path / "drawn", each=1) / "red" / "red-000.jpg"
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width, _ = pixels.shape
    node.receive(message(pixels.tobytes(), "rgb8", width, height, 3 * width))
    assert node.changed.wait(60)
    with edgeq.open_bundle(classifier_bundle(tmp_path_factory)) as bundle:
        wanted = {one.label or str(one.index): one.score for one in bundle.classify(pixels, top=3)}
    assert node.published == [{"stamp": 12.0, "frame_id": "camera", "answer": pytest.approx(wanted), "latency_s": 0.5}]


def test_an_image_that_cannot_be_read_is_told_of(node: Any) -> None:
    node.receive(message(b"", "32FC1", 1, 1, 4))
    assert node.changed.wait(60)
    assert "32FC1" in node.warned[0]
    assert not node.published
