"""The limit: the FP32 graph run over the images by ONNX Runtime, one at a time, and nothing kept."""

from __future__ import annotations

import onnxruntime

from benchmarks.peers.task import Task, report


def main() -> None:
    """Open the session and run every image through it."""
    task = Task.read()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    session = onnxruntime.InferenceSession(str(task.graph), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for pixels in task.pixels():
        session.run(None, {name: pixels})
    report(f"onnxruntime {onnxruntime.__version__}", scales=task.elapsed(), model=task.elapsed())


if __name__ == "__main__":
    main()
