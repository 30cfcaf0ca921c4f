"""A ROS 2 node that shows camera images to a bundle, and publishes what is on them as JSON.

    python3 examples/ros2/edgeq_node.py --ros-args -p bundle:=/opt/bundle -p question:="Is there a crack?" \
        -r image:=/camera/image_raw

It takes the newest image whenever it is done with the one before (`sensor_msgs/Image` in rgb8, bgr8, rgba8, bgra8 or
mono8), and publishes `std_msgs/String` on `~/answer`: stamp and frame of the image, the answer, seconds from the
image's stamp to it. A bundle of a classifier gives classes, one of a vision-language model answers the question.

rclpy comes with ROS 2 (Humble is for JetPack 6's Python 3.10); edgeq is installed into the same Python. The tests run
this node's own code with messages that they make up; it has not been run with ROS 2 itself.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String

import edgeq

_CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}
"""Encoding -> where red, green and blue stand in a pixel."""

_BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


def to_rgb(message: Image) -> NDArray[np.uint8]:
    """The pixels of a message, uint8 [H, W, 3] in RGB; raises ValueError where it is not what it says."""
    if message.encoding not in _BYTES:
        raise ValueError(f"encoding {message.encoding}, expected one of {', '.join(_BYTES)}")
    size = _BYTES[message.encoding]
    rows = np.frombuffer(bytes(message.data), np.uint8)
    if message.step < message.width * size or rows.size != message.step * message.height:
        raise ValueError(f"{rows.size} bytes for {message.height} rows of {message.step}")
    pixels = rows.reshape(message.height, message.step)[:, : message.width * size]
    return np.ascontiguousarray(pixels.reshape(message.height, message.width, size)[..., _CHANNELS[message.encoding]])


class EdgeqNode(Node):  # type: ignore[misc]
    """Keeps the newest image for a thread that asks; the executor is never held up."""

    def __init__(self) -> None:
        super().__init__("edgeq")
        self._question = self.declare_parameter("question", "What is in the image?").value
        self._bundle = edgeq.open_bundle(self.declare_parameter("bundle", "bundle").value)
        self._publisher = self.create_publisher(String, "~/answer", 10)
        self._changed = threading.Condition()
        self._newest: Image | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._answer_all, name="edgeq")
        self._thread.start()
        self.create_subscription(Image, "image", self.receive, qos_profile_sensor_data)

    def receive(self, message: Image) -> None:
        """Keep an image; one that nobody has looked at yet is dropped."""
        with self._changed:
            self._newest = message
            self._changed.notify()

    def close(self) -> None:
        """Let the thread end, and the model go."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._bundle.close()

    def _answer_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._closed)
                message, self._newest = self._newest, None
            if self._closed or message is None:
                return
            try:
                answer = self.answer(message)
            except (edgeq.EdgeqError, ValueError) as error:
                self.get_logger().warning(str(error))
                continue
            self._publisher.publish(String(data=json.dumps(answer)))

    def answer(self, message: Image) -> dict[str, Any]:
        """What is on an image; raises EdgeqError or ValueError."""
        pixels = to_rgb(message)
        if self._bundle.manifest.kind == "vision-language":
            found: Any = self._bundle.ask(pixels, self._question).text
        else:
            found = {one.label or str(one.index): one.score for one in self._bundle.classify(pixels, top=3)}
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        now = self.get_clock().now().nanoseconds * 1e-9
        return {
            "stamp": stamp,
            "frame_id": message.header.frame_id,
            "answer": found,
            "latency_s": round(now - stamp, 4),
        }


def main() -> None:
    """Run the node until it is told to stop."""
    rclpy.init()
    node = EdgeqNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.close()
        node.destroy_node()


if __name__ == "__main__":
    main()
