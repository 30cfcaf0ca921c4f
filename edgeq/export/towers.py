"""The text encoder and the vision encoder of a two-tower model as FP32 graphs, exported from one model and proved.

A tower loaded alone would lose what it shares with the other: the config of CLIP's text part does not have the
projection's size of the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from edgeq.bundle.vision_report import VISION_FP32
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ModelError, first_line
from edgeq.export.fold import FoldReport
from edgeq.export.late_weights import simplify_with_weights
from edgeq.export.masks import fold_mask_constants
from edgeq.export.naflex import at_one_resolution, by_patches
from edgeq.export.parity import Network, Parity, prove_parity
from edgeq.export.stage import FP32, ExportReport, save_report
from edgeq.export.token_table import token_table_in_fp16
from edgeq.export.torch_export import load_network, refuse_gaps
from edgeq.export.tracing import quiet, trace
from edgeq.families.base import GraphInput
from edgeq.families.modules import load_config
from edgeq.families.two_tower import (
    NAFLEX,
    TwoTower,
    check_image_size,
    describe_text_tower,
    describe_two_tower,
    text_class,
)
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.model.graph.tensors import name_nodes

if TYPE_CHECKING:
    import onnx
    import torch

__all__ = [
    "IDS",
    "IMAGE_EMBEDS",
    "PIXELS",
    "TEXT_EMBEDS",
    "TextTower",
    "Towers",
    "export_text",
    "export_vision",
    "load_text_tower",
    "load_towers",
]

IDS: Final = "input_ids"
PIXELS: Final = "pixel_values"
TEXT_EMBEDS: Final = "text_embeds"
IMAGE_EMBEDS: Final = "image_embeds"


@dataclass(frozen=True)
class TextTower:
    """A text encoder in float32, in eval mode, on the CPU.

    Attributes:
        described: what its config says.
        text: token ids int64 [n, length] to embeddings float32 [n, dimension], not normalized.
        text_parameters: numbers in it, its projection included.
    """

    described: TwoTower
    text: torch.nn.Module
    text_parameters: int


@dataclass(frozen=True)
class Towers(TextTower):
    """A two-tower model.

    Attributes:
        vision: pixels float32 [n, 3, height, width] to embeddings float32 [n, dimension], not normalized.
        reference: the same as transformers computes it, where `vision` is made of it for one resolution.
        vision_parameters: numbers in the vision encoder, its projection included.
        logit_scale: what cosines are multiplied with.
        logit_bias: what is added then; None for models without.
    """

    vision: torch.nn.Module
    reference: torch.nn.Module
    vision_parameters: int
    logit_scale: float
    logit_bias: float | None


def load_towers(model: Path, size: tuple[int, int]) -> Towers:
    """Load a model; no code from its directory is run.

    Args:
        model: a Hugging Face directory with config.json and safetensors.
        size: height and width in pixels of the images that it will see.

    Raises:
        ModelError: it is no two-tower model that edgeq knows, does not take images of that size, or its weights are
            missing, damaged or not the config's.
    """
    import transformers

    with quiet():
        config = load_config(model)
    described = describe_two_tower(config)
    check_image_size(config["vision_config"], size)
    inner = _loaded(transformers.AutoModel, model)
    vision = reference = _tower(inner.get_image_features, inner, PIXELS)
    if described.model_type in NAFLEX:
        vision = at_one_resolution(inner.vision_model, size).eval()
        reference = by_patches(inner.vision_model, inner.get_image_features).eval()
    bias = getattr(inner, "logit_bias", None)
    return Towers(
        described=described,
        text=_tower(inner.get_text_features, inner, IDS),
        vision=vision,
        reference=reference,
        logit_scale=float(inner.logit_scale.detach().exp()),
        logit_bias=None if bias is None else float(bias.detach()),
        text_parameters=_count(inner, "text"),
        vision_parameters=_count(inner, "vi"),
    )


def load_text_tower(model: Path) -> TextTower:
    """Load a text encoder that was saved alone; no code from its directory is run.

    Args:
        model: a Hugging Face directory with config.json and safetensors.

    Raises:
        ModelError: it is no text encoder that edgeq knows, or its weights are missing, damaged or not the config's.
    """
    import transformers

    with quiet():
        config = load_config(model)
    described = describe_text_tower(config)
    inner = _loaded(getattr(transformers, text_class(config)), model)
    return TextTower(described, _tower(inner, inner, IDS), _count(inner, ""))


def _loaded(kind: Any, model: Path) -> Any:
    """A network with all of its weights; ModelError otherwise."""
    try:
        with quiet():
            inner, loading = load_network(kind, model)
    except Exception as error:  # transformers, safetensors and the config classes raise whatever they like
        raise ModelError(
            f"{model} cannot be loaded as CLIP, SigLIP or one of their encoders",
            expected="config.json and safetensors, as transformers saves them",
            causes=(first_line(error),),
        ) from error
    refuse_gaps(model, loading)
    return inner


def _tower(features: Callable[..., Any], inner: Any, given: str) -> torch.nn.Module:
    """One of the two, without transformers' output object: what is given by name [n, ...] to [n, dimension]."""
    import torch

    class Tower(torch.nn.Module):
        """Holds the whole network, whose weights it is exported with."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            """[n, ...] to [n, dimension]."""
            made = features(**{given: values})
            if not isinstance(made, torch.Tensor):
                made = made.text_embeds if "text_embeds" in made else made.pooler_output
            found: torch.Tensor = made
            return found

    return Tower().eval()


def _count(inner: Any, beginning: str) -> int:
    """Numbers in the parameters of one tower: `text_model`, `text_projection`; `vision_model`, `visual_projection`."""
    return sum(int(value.numel()) for name, value in inner.named_parameters() if name.startswith(beginning))


def export_text(
    tower: TextTower, source: Path, directory: Path, texts: Sequence[NDArray[np.int64]], *, threads: int | None = None
) -> ExportReport:
    """Write `model.fp32.onnx` and its report: `input_ids` int64 [batch, length] to `text_embeds` [batch, dimension].

    The length is free where texts are trimmed, and the whole context where they are padded to it. Its mask is within
    FP16's reach. The token table is stored in FP16 once the graph was proved.

    Args:
        tower: the encoder, or the model that it belongs to.
        source: its directory, for errors.
        directory: an existing one, of the text encoder alone.
        texts: for the proof, as the model takes them, each int64 [length].
        threads: of one operator.

    Raises:
        ExportError: it cannot be exported.
        ParityError: the graph computes something else than the model.
    """
    free = {0: "batch", 1: "length"} if tower.described.padding == "trim" else {0: "batch"}
    longest = max(texts, key=len)
    given, example = GraphInput(IDS, free, "int64"), np.stack((longest, longest))
    model = fold_mask_constants(_traced(tower.text, example, source, given, TEXT_EMBEDS))
    save_onnx(model, directory / FP32)
    parity = _prove(tower.text, directory / FP32, given.name, [text[None] for text in texts], threads)
    model = token_table_in_fp16(model, IDS)
    save_onnx(model, directory / FP32)
    return save_report(directory, model, "hf", FoldReport(0, 0, (), ()), parity)


def export_vision(
    towers: Towers, source: Path, directory: Path, pixels: NDArray[np.float32], *, threads: int | None = None
) -> Parity:
    """Write `vision.fp32.onnx`: `pixel_values` float32 [batch, 3, H, W] to `image_embeds` float32 [batch, dimension].

    Args:
        towers: the model.
        source: its directory, for errors.
        directory: an existing one.
        pixels: real images for the proof, float32 [n, 3, H, W].
        threads: of one operator.

    Raises:
        ExportError: it cannot be exported.
        ParityError: the graph computes something else than the model.
    """
    given, example = GraphInput(PIXELS, {0: "batch"}), np.concatenate((pixels[:1], pixels[:1]))
    save_onnx(_traced(towers.vision, example, source, given, IMAGE_EMBEDS), directory / VISION_FP32)
    return _prove(towers.reference, directory / VISION_FP32, given.name, np.split(pixels, len(pixels)), threads)


def _traced(
    tower: torch.nn.Module, example: NDArray[Any], source: Path, given: GraphInput, output: str
) -> onnx.ModelProto:
    """One tower as a graph, simplified, every node named."""
    traced = trace(
        tower,
        {given.name: example},
        source=source,
        inputs=(given,),
        outputs={output: {0: "batch"}},
        weights=False,
    )
    weights = {name: value.numpy() for name, value in tower.state_dict().items()}
    return name_nodes(simplify_with_weights(traced, weights))


def _prove(
    tower: torch.nn.Module, graph: Path, given: str, proof: Sequence[NDArray[Any]], threads: int | None
) -> Parity:
    """A tower against its graph, one image or text at a time."""
    engine = OnnxRuntimeEngine(graph, threads=threads)
    made = cast("Network", lambda batch: engine.run({given: batch})[engine.outputs[0]])
    return prove_parity(lambda batch: _run(tower, batch), made, proof)


def _run(tower: torch.nn.Module, batch: NDArray[Any]) -> NDArray[np.float32]:
    """What the model itself computes."""
    import torch

    with torch.inference_mode():
        found: NDArray[np.float32] = tower(torch.from_numpy(batch)).numpy()
        return found
