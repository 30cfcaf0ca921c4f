"""Quantize an image classifier to INT8, and judge it against FP32 on labelled images.

    python examples/quantize_classifier.py MODEL CALIBRATION LABELLED BUNDLE

MODEL is a directory with model.onnx, or a Hugging Face directory or id. CALIBRATION is a folder or zip of images like
those of the field, LABELLED has one folder for each class. `edgeq demo --output demo` makes all three: demo/model,
demo/calibration.zip and demo/evaluation.zip.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import edgeq


def main() -> None:
    """Make the bundle, and say what INT8 costs and gains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration", type=Path)
    parser.add_argument("labelled", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--method", default="auto", help="how a histogram becomes a range")
    given = parser.parse_args()

    options = edgeq.Options(method=given.method)
    made = edgeq.prepare(given.model, given.calibration, given.bundle, evaluation=given.labelled, options=options)

    answers = made.quality.answers
    assert answers is not None, "there are labelled images"
    print(f"top-1: {answers.top1_reference:.2f} % in FP32, {answers.top1_candidate:.2f} % in INT8")
    print(f"drop: {answers.drop:.2f} ± {answers.drop_standard_error:.2f} points on {answers.images} images")
    print(f"{made.int8_layers} layers are INT8; batch 1 is {made.quality.latency[0].speedup:.2f} times as fast")
    for warning in made.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    main()
