"""What a vision transformer would answer with numbers of few bits: simulated, in no engine.

    python -m benchmarks.simulated_vit MODEL --calibration IMAGES --labelled IMAGES [--count N] [--bits 8 6 4]

MODEL is a Hugging Face directory of an image classifier. The scales come from 32 images of the calibration set, as in
PTQ4ViT; the answers are those on N labelled images, evenly spread over the classes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from benchmarks.simulate.products import Network, Quantized, find_products, observe, simulated
from benchmarks.simulate.schemes import SCHEMES, Bits, Fitter, Scheme
from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.stream import ImageStream
from edgeq.plan.precision import WeightGranularity
from edgeq.quality.tasks.classification import label_indices

__all__ = ["SimulatedRow", "Simulation", "markdown_table", "simulate", "simulated_table"]

CALIBRATION_IMAGES = 32
_BATCH = 100


@dataclass(frozen=True)
class SimulatedRow:
    """One scheme at some bits.

    Attributes:
        scheme, bits, weights: what was simulated.
        top1, agreement: percent, of the labels and of the classes that FP32 names.
        logit_error: ||simulated - FP32|| / ||FP32|| over all logits.
        kind: no engine ran this.
    """

    scheme: str
    bits: str
    weights: WeightGranularity
    top1: float
    agreement: float
    logit_error: float
    kind: Literal["simulated"] = "simulated"


@dataclass(frozen=True)
class Simulation:
    """All rows, and what they are held against.

    Attributes:
        images: labelled ones.
        top1: of FP32, percent.
    """

    images: int
    top1: float
    rows: tuple[SimulatedRow, ...]


def simulate(
    directory: Path,
    calibration: ImageSet,
    labelled: ImageSet,
    *,
    bits: Sequence[Bits] = (Bits(8, 8), Bits(6, 6), Bits(4, 4)),
    schemes: Sequence[Scheme] = SCHEMES,
    weights: WeightGranularity = "per-tensor",
    say: Callable[[str], None] = lambda _: None,
) -> Simulation:
    """Every scheme at every number of bits.

    Args:
        directory: a Hugging Face image classifier with preprocessor_config.json.
        calibration: 32 of its images are used.
        labelled: in folders named after classes; all are used.
        bits, schemes: the rows.
        weights: one step for a weight, as PTQ4ViT has it, or one for each output channel.
        say: called with each row when it is done.

    Raises:
        ModelError: the network has no plain products behind a softmax.
        ImageError: images cannot be read, or are not in folders named after the network's classes.
    """
    network, source = _network(directory), open_model(directory)
    seen, _ = _pixels(calibration.sample(CALIBRATION_IMAGES), source)
    pixels, folders = _pixels(labelled, source)
    reference = _logits(network, pixels, {})
    classes = label_indices(labelled.labels, source.labels, reference.shape[1])
    answers = torch.tensor([classes[folder] for folder in folders])
    products = [product.index for product in find_products(network, seen)]
    fitter = Fitter(observe(network, seen, products), weights=weights)
    rows = []
    for width in bits:
        for scheme in schemes:
            logits = _logits(network, pixels, fitter.fit(scheme, width))
            rows.append(_row(scheme, width, weights, logits, reference, answers))
            say("  ".join(_cells(rows[-1])))
    return Simulation(len(pixels), _percent(reference.argmax(1) == answers), tuple(rows))


def simulated_table(simulation: Simulation) -> str:
    """One line for each scheme, "simulated" in each, as Markdown."""
    heads = ("", "bits", "scheme", "weights", "top-1", "same class", "logit error")
    table = markdown_table(heads, [_cells(row) for row in simulation.rows])
    return f"FP32: top-1 {simulation.top1:.2f} on {simulation.images} images\n\n{table}"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of these cells."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows))


def _network(directory: Path) -> Network:
    model: Any = transformers.AutoModelForImageClassification.from_pretrained(
        directory, local_files_only=True, attn_implementation="eager", dtype=torch.float32
    ).eval()
    return lambda pixels: model(pixel_values=pixels).logits


def _pixels(images: ImageSet, source: ModelSource) -> tuple[torch.Tensor, list[str]]:
    """Pixels, float32 [n, 3, H, W], and the folders that the images lie in."""
    batches: list[torch.Tensor] = []
    folders: list[str] = []
    for items, pixels in ImageStream(images, source.preprocess, batch_size=_BATCH):
        batches.append(torch.from_numpy(pixels))
        folders += [str(item.label) for item in items]
    return torch.cat(batches), folders


@torch.no_grad()
def _logits(network: Network, pixels: torch.Tensor, scheme: dict[int, Quantized]) -> torch.Tensor:
    parts = []
    for batch in torch.split(pixels, _BATCH):
        with simulated(scheme):
            parts.append(network(batch))
    return torch.cat(parts).double()


def _row(
    scheme: Scheme,
    bits: Bits,
    weights: WeightGranularity,
    logits: torch.Tensor,
    reference: torch.Tensor,
    answers: torch.Tensor,
) -> SimulatedRow:
    named = logits.argmax(1)
    return SimulatedRow(
        scheme.name,
        str(bits),
        weights,
        top1=_percent(named == answers),
        agreement=_percent(named == reference.argmax(1)),
        logit_error=float((logits - reference).norm() / reference.norm()),
    )


def _percent(right: torch.Tensor) -> float:
    return 100.0 * float(right.double().mean())


def _cells(row: SimulatedRow) -> tuple[str, ...]:
    figures = (f"{row.top1:.2f}", f"{row.agreement:.2f}", f"{row.logit_error:.4f}")
    return (row.kind, row.bits, row.scheme, row.weights, *figures)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulated_vit")
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True, help="a folder or a zip")
    parser.add_argument("--labelled", type=Path, required=True, help="a folder or a zip with a folder for each class")
    parser.add_argument("--count", type=int, default=5000, help="labelled images that are used")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 4], help="of weights and activations alike")
    parser.add_argument("--weights", choices=["per-tensor", "per-channel"], default="per-tensor")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    given = parser.parse_args()
    found = simulate(
        given.model,
        ImageSet.open(given.calibration),
        ImageSet.open(given.labelled, labelled=True).sample(given.count),
        bits=[Bits(width, width) for width in given.bits],
        weights=given.weights,
        say=lambda line: print(line, flush=True),
    )
    print(simulated_table(found))
    if given.json:
        given.json.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
