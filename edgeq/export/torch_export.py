"""A Hugging Face image classifier or image encoder to ONNX, with its BatchNorm nodes still in.

The exporters fold BatchNorm on their own in eval mode. Here that is left to `edgeq.export.fold`, which says what it
did and is verified. The tracing exporter is used: on the classifiers of transformers it takes a tenth of the time of
the `dynamo` one, its nodes are named after their modules (`/inner/resnet/.../Conv`), and it keeps to opset 17, where
the other one gives 18. Tracing turns every size but the batch into a constant: that is what a fixed image size means.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ExportError, ModelError, first_line, shell_word
from edgeq.export.naflex import at_one_resolution, by_patches
from edgeq.export.parity import Network
from edgeq.export.rewrites.batch_statistics import write_out_batch_statistics
from edgeq.export.tracing import OPSET, quiet, trace
from edgeq.families.base import GraphInput
from edgeq.families.modules import load_config
from edgeq.families.two_tower import NAFLEX, check_image_size, is_text_tower, is_two_tower
from edgeq.model.graph.onnx_file import save_onnx

if TYPE_CHECKING:
    import torch

__all__ = ["INPUT", "OPSET", "OUTPUT", "TorchExport", "export_classifier", "refuse_gaps"]

INPUT, OUTPUT = "pixel_values", "logits"

_ANSWERS: Final = (
    (OUTPUT, "pred_boxes"),
    ("class_queries_logits", "masks_queries_logits"),
    ("predicted_depth",),
    ("reconstruction",),
    ("heatmaps",),
    ("image_embeds",),
    ("pooler_output",),
    ("last_hidden_state",),
)
"""Fields of transformers' outputs; the first line of which a network fills some is what it is for."""


@dataclass(frozen=True)
class TorchExport:
    """An ONNX file and the network that it was made from.

    Attributes:
        path: the file: input `pixel_values` float32 [batch, channels, height, width], output `logits` [batch, labels],
            of a detector `pred_boxes` too; of an encoder, `image_embeds`, `pooler_output` or `last_hidden_state`.
        labels: length of the first output's second axis: the number of classes, or of features.
        reference: the torch network itself on the CPU, batch to its first output, both float32 arrays.
        every_output: the same with all outputs, in the file's order.
    """

    path: Path
    labels: int
    reference: Network
    every_output: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], ...]]


def export_classifier(directory: Path, output: Path, *, image_size: tuple[int, int], channels: int = 3) -> TorchExport:
    """Export the image classifier, or image encoder, in `directory` to the ONNX file `output`.

    Args:
        directory: a Hugging Face model directory with config.json and safetensors; no code in it is run.
        output: written under a temporary name and renamed.
        image_size: height and width in pixels, fixed from here on; only the batch stays dynamic.
        channels: colour channels of an image.

    Raises:
        ModelError: the directory is neither of the two, or its weights are missing, damaged or not the config's.
        ExportError: the network does not take images of this size, or cannot be exported.
    """
    if min(*image_size, channels) < 1:
        raise ExportError(
            f"an image of {image_size[0]} x {image_size[1]} pixels and {channels} channels has no content",
            expected="sizes of 1 and more",
        )
    network, reference = _load(directory, image_size)
    shape = (1, channels, *image_size)
    labels = _count_labels(directory, network, shape)
    # Two images, so that an axis that happens to be the batch is not taken for a constant one.
    examples = {INPUT: np.zeros((2, *shape[1:]), np.float32)}
    outputs = {name: {0: "batch"} for name in network.given}
    model = trace(network, examples, source=directory, inputs=(GraphInput(INPUT, {0: "batch"}),), outputs=outputs)
    save_onnx(write_out_batch_statistics(model), output)
    return TorchExport(output, labels, lambda batch: _run(reference, batch)[0], lambda batch: _run(reference, batch))


def _load(directory: Path, image_size: tuple[int, int]) -> tuple[Any, torch.nn.Module]:
    """The network in eval mode and float32, taking pixels and giving logits or features; and what it must equal."""
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory} has no config.json", expected="a Hugging Face model directory")
    import torch

    class Answering(torch.nn.Module):
        """Pixels to answers, without transformers' output object; `given` are that object's fields."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.given: tuple[str, ...] = (OUTPUT,)

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            """[batch, channels, height, width] to what is in `given`; a tuple where that is more than one."""
            made = self.inner(pixel_values=pixel_values)
            if isinstance(made, torch.Tensor):
                self.given = ("pooler_output",)
                return made
            self.given = _answers(made)
            answers = tuple(made[name] for name in self.given)
            return answers if len(answers) > 1 else answers[0]

    try:
        with quiet():
            config = load_config(directory)
    except ModelError as error:
        raise _unloadable(directory, error.causes[0] if error.causes else error.what) from error
    _check_encoder(directory, config, image_size)
    try:
        with quiet():
            inner, loading = load_network(_class_of(directory), directory)
    except Exception as error:  # transformers, safetensors and the config classes raise whatever they like
        raise _unloadable(directory, first_line(error)) from error
    refuse_gaps(directory, loading)
    _check_pixels(directory, inner)
    if config["model_type"] in NAFLEX:
        pair = (at_one_resolution(inner, image_size), by_patches(inner, inner))
        return Answering(pair[0]).eval(), Answering(pair[1]).eval()
    # The flag is set on the wrapper itself: the exporter puts a wrapper's flag back recursively.
    network = Answering(inner).eval()
    return network, network


def _answers(made: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that are a network's answer.

    Args:
        made: what it gave, one of transformers' output objects.

    Raises:
        ExportError: none of them is known here.
    """
    filled = {name for name, value in made.items() if value is not None}
    found = next((names for names in _ANSWERS if filled & set(names)), ())
    if not found:
        raise ExportError(
            f"the network gives {', '.join(sorted(filled)) or 'nothing'}",
            expected=f"one of {', '.join(name for names in _ANSWERS for name in names)}",
        )
    return tuple(name for name in found if name in filled)


def _unloadable(directory: Path, reason: str) -> ModelError:
    return ModelError(
        f"{directory} cannot be loaded as an image classifier",
        expected="an architecture that transformers' AutoModelForImageClassification knows, or an image encoder of "
        "transformers, and its safetensors",
        causes=(reason,),
    )


def _check_encoder(directory: Path, config: Mapping[str, Any], image_size: tuple[int, int]) -> None:
    """Raise ModelError for what reads texts, or an encoder that gives no vector, or none for images of this size."""
    if is_two_tower(config) or is_text_tower(config):
        raise ModelError(
            f"{directory} has a text encoder, and the stages one by one are for classifiers and image encoders",
            next_step=f"edgeq prepare {shell_word(directory)} --captions CAPTIONS goes the whole way",
        )
    if config["model_type"] in NAFLEX and "vision_config" in config:
        raise ModelError(
            f"{directory} is SigLIP 2 NaFlex with a class head, which edgeq does not export",
            expected="Siglip2Model or Siglip2VisionModel, or a classifier of SigLIP 2 of one resolution",
        )
    if config["model_type"] in NAFLEX:
        check_image_size(config, image_size)
    if config.get("vision_use_head") is False:
        raise ModelError(
            f"{directory} has no head that makes one vector of an image's patches",
            expected="vision_use_head in config.json, with its weights",
            causes=("it is the encoder of a vision-language model, which takes the patches",),
        )


def _check_pixels(directory: Path, network: Any) -> None:
    """Raise ModelError for a network that is not given pixels, such as one that reads an image as a sentence."""
    if INPUT not in inspect.signature(network.forward).parameters:
        raise ModelError(
            f"{directory} takes {network.main_input_name}, and no {INPUT}",
            expected="a network of images as numbers, [batch, channels, height, width]",
            causes=(f"{type(network).__name__} reads something else of an image, as ImageGPT its colours' classes",),
        )


def load_network(kind: Any, directory: Path) -> tuple[Any, Mapping[str, Any]]:
    """A network in float32 with plain attention, from safetensors, and what transformers says of its loading.

    Args:
        kind: a class of transformers that has `from_pretrained`.
        directory: of the model; nothing is downloaded and no code of it is run.

    Raises:
        Exception: whatever transformers, safetensors and the config classes raise.
    """
    import torch

    network, loading = kind.from_pretrained(
        str(directory),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation="eager",  # plain MatMul and Softmax: a smaller graph
        output_loading_info=True,
    )
    return network, loading


def _class_of(directory: Path) -> Any:
    """The class of transformers that reads a directory: the encoder that its config names, else any classifier's."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    name = str((config.architectures or [""])[0])
    named: Any = getattr(transformers, name, None)
    known = isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)
    if known and named.main_input_name == INPUT and "ForImageClassification" not in name:
        return named
    return transformers.AutoModelForImageClassification


def refuse_gaps(directory: Path, loading: Mapping[str, Any]) -> None:
    """Raise ModelError for weights that are missing, or not used, or of another shape.

    transformers fills what is missing with random weights and goes on; a compiler must not.

    Args:
        directory: of the model.
        loading: what `from_pretrained` says with `output_loading_info`.
    """
    kinds = (("missing_keys", "missing"), ("unexpected_keys", "not used"), ("mismatched_keys", "of another shape"))
    faults = [f"{kind}: {', '.join(sorted(map(str, loading[key]))[:5])}" for key, kind in kinds if loading.get(key)]
    if faults:
        raise ModelError(
            f"the weights in {directory} are not those of its config",
            expected="each parameter once",
            causes=tuple(faults),
            next_step="take config.json and the safetensors from the same checkpoint",
        )


def _count_labels(directory: Path, network: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Run one image, a gradient, twice, before anything takes long."""
    image = np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape)
    try:
        with quiet():
            first, again = (_run(network, image) for _ in range(2))
    except ExportError:
        raise
    except Exception as error:  # a network refuses a shape in its own words
        raise ExportError(
            f"the network in {directory} does not take images of shape {list(shape[1:])}",
            causes=(first_line(error),),
            next_step="give the size of its preprocessor_config.json",
        ) from error
    for values in first:
        if values.ndim < 2 or len(values) != shape[0]:
            raise ExportError(
                f"the network in {directory} gives {list(values.shape)}", expected="[batch, ...], a row for each image"
            )
    if not all(
        one.shape == other.shape and np.array_equal(one, other) for one, other in zip(first, again, strict=True)
    ):
        raise ExportError(
            f"the network in {directory} answers the same image in two ways",
            expected="the same answer each time",
            causes=("it draws random numbers, as a masked autoencoder does which hides patches while it is trained",),
            next_step="give the network that is used after training, such as its encoder with a class head",
        )
    return int(first[0].shape[1])


def _run(network: torch.nn.Module, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    import torch

    with torch.inference_mode():
        made = network(torch.tensor(batch))
    return tuple(values.numpy() for values in (made if isinstance(made, tuple) else (made,)))
