"""What a family of vision-language models is: the contract of `edgeq/families/NAME.py`.

A family is one `Family`, made in a file of its own and named in `registry.FAMILIES`. Nothing else in edgeq asks for a
model type: a fact about a family is taken from here, and a fact that is missing is a field to add here,
with a default, so that the other files stay as they are. In the order in which they are of use:

1. `model_types`, `name`, `modules`: the `model_type` of config.json, and where transformers builds the three parts.
   edgeq finds the parts by structure; the names check what it found. Now `edgeq plan` counts parameters and weights.
2. `image_cost`: tokens of an image, from configs and its size alone. Now `edgeq plan` shows the memory.
3. `vision`: encoder and connector as torch traces them into one ONNX graph, what of the image processor's result goes
   into it, and how what comes out becomes the features of an image. Now the vision half is exported, compared with
   transformers and put into FP16. Most families take `edgeq.families.pictures.picture_graph`, which makes all of it of
   what is between the encoder and the connector.
4. `prompt`: how many places an image takes, what is written there, which tokens see which, where they stand. Now
   `prepare` makes bundles, and `run` and `serve` answer.
5. `language_classes`: only where AutoModelForCausalLM does not know the language half.

Where edgeq cannot do 3 or 4, the field is `Unsupported`, whose reason the user reads; the file says it, not the caller.

The file is read on the device, too, which has no torch while it checks a bundle: torch and transformers are imported
inside functions. Rules follow the processors and models of transformers 5, and the tests compare with these.

`tests/families/test_family_contract.py` checks every registered family: model types that no other has, parts where
transformers builds them, a cost for the config that transformers has by default, reasons that can be read, no workshop
package at import. The family's own test file compares costs with transformers' image processor over many sizes. Graph
and prompt are compared with the whole model by `tests/export/test_vision_export.py`, `tests/runtime/vlm/test_prompt.py`
and `test_language.py`, which take a tiny model of each. `docs/extending/family.md` goes through an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.families.features import FeatureArray, on_host
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    import torch

    from edgeq.families.modules import VlmDescription

__all__ = [
    "FEATURES",
    "MASKED_SCORE",
    "PICTURES",
    "PIXELS",
    "UNCUT",
    "Arrays",
    "AxisRange",
    "Between",
    "Build",
    "Cap",
    "Config",
    "Encode",
    "Family",
    "Given",
    "GraphInput",
    "Grid",
    "ImageCost",
    "ImageFeatures",
    "ImagePrompt",
    "ImageRule",
    "Layout",
    "LlamaCppForm",
    "Made",
    "ModuleNames",
    "Piece",
    "Places",
    "Positions",
    "Seen",
    "Unsupported",
    "VisionGraph",
    "Whole",
    "WholeFeatures",
    "output_rows",
    "sequential",
    "whole_pixels",
]


Grid = tuple[int, int]
"""Rows and columns that an image was cut into, or of its places in the prompt, as the family has it."""

UNCUT: Final[Grid] = (0, 0)
"""The grid of an image that was not cut."""

PIXELS: Final = "pixel_values"
"""The input of a graph that takes pictures, as transformers names it."""

FEATURES: Final = "image_features"
"""The first output of every vision graph."""

MASKED_SCORE: Final = -30000.0
"""Added to an attention score that shall not count: FP16 holds it, and e to its power is 0."""

Config = Mapping[str, Any]
"""The whole model's config with every default that transformers fills in; `vision_config` and `text_config` in it."""

Given = Mapping[str, Any]
"""What transformers' image processor gave for one image, arrays of NumPy."""

Arrays = dict[str, NDArray[Any]]
"""Arrays of a graph by name."""

Made = Mapping[str, FeatureArray]
"""Outputs of a vision graph by name, float32: arrays of NumPy, or torch's tensors on the GPU, where `join` leaves them.
What both take will do: shapes, slices, numbers of rows, and `edgeq.families.features`."""

AxisRange = tuple[int, int, int]
"""Least, usual and largest length of an axis."""

Encode = Callable[["torch.Tensor"], "torch.Tensor"]
"""Pixels [pictures, 3, height, width] to what the connector is given; both float32."""

Between = Callable[[Any, Any], Encode]
"""From the real encoder and the whole model without bytes."""

Build = Callable[[Any, Any, Any], "torch.nn.Module"]
"""From the real encoder, the real connector (None where it is inside the encoder) and the whole model, which has no
bytes but for loose parameters of the connector (`image_newline`), to a module that takes a graph's inputs in their
order and gives its outputs, a tensor or a tuple. Its children are called `vision` and `connector`."""


@dataclass(frozen=True)
class Layout:
    """What of an image a prompt depends on. Two images of equal layout have the same prompt.

    Attributes:
        tokens: places in the prompt, each with the image token.
        pictures: that the encoder is given.
        patches: of one of them, which attend to each other.
        grid: as the family has it.
        size: height and width in pixels, where the family joins features by it.
    """

    tokens: int
    pictures: int
    patches: int
    grid: Grid = UNCUT
    size: Size = (0, 0)


@dataclass(frozen=True)
class ImageFeatures:
    """What the language model is given of one image, float32; on the GPU where the engine left it there.

    Attributes:
        places: for the places of the image, [tokens, hidden]; [0, hidden] where the image token keeps its embedding.
        deepstack: added to the places behind the first layers, one [tokens, hidden] for each of those layers.
        cross: what cross-attention looks at, [states, hidden]; None for models without.
    """

    places: FeatureArray
    deepstack: tuple[FeatureArray, ...] = ()
    cross: FeatureArray | None = None


@dataclass(frozen=True)
class ImageCost:
    """What one image costs.

    Attributes:
        tokens: places in the language model's context.
        cross_tokens: places that its cross-attention looks at instead; 0 for models without.
        tiles: pictures that the encoder is given.
        sequences, sequence: the encoder's patches: `sequences` runs of `sequence`, in which all attend to all, in those
            of its layers where the runs are longest.
        markers: text tokens that the processor writes around the image; not in `tokens`.
        mask: numbers of what is added to attention scores, for one head; 0 where nothing is.
    """

    tokens: int
    tiles: int
    sequences: int
    sequence: int
    cross_tokens: int = 0
    markers: int = 0
    mask: int = 0


ImageRule = Callable[["VlmDescription", Size], ImageCost]
"""Model and (height, width) of an image, both positive -> its cost. Where a config lacks a number it raises KeyError,
TypeError or ValueError, which `registry.image_cost` puts into words."""


@dataclass(frozen=True)
class Unsupported:
    """What edgeq cannot do with a family.

    Attributes:
        because: the reason, a clause that follows "…: " in an error.
    """

    because: str


@dataclass(frozen=True)
class ModuleNames:
    """Full names of the modules that the parts hang from, as transformers 5 builds them.

    Attributes:
        vision: of the encoder.
        connector: of all parts between encoder and language model.
        language: of the language model, without its head.
    """

    vision: str
    connector: tuple[str, ...]
    language: str


@dataclass(frozen=True)
class GraphInput:
    """An input of a vision graph.

    Attributes:
        name: as transformers or the family names it.
        free: axes whose length differs from image to image -> their names; two axes of one name have one length.
        dtype: of its numbers.
    """

    name: str
    free: Mapping[int, str]
    dtype: Literal["float32", "int64"] = "float32"


PICTURES: Final = (GraphInput(PIXELS, {0: "batch"}),)
"""The input of a graph that takes pictures of one size, any number of them."""


def _one_output(_config: Config) -> tuple[str, ...]:
    return (FEATURES,)


def _pixels(given: Given, _config: Config) -> Arrays:
    """All pictures of an image, float32 [pictures, 3, height, width]."""
    values = np.asarray(given[PIXELS], np.float32)
    return {PIXELS: np.ascontiguousarray(values.reshape(-1, *values.shape[-3:]))}


def _rows(made: Made, _layout: Layout, _config: Config) -> ImageFeatures:
    """All pictures' features, one behind the other."""
    found = made[FEATURES]
    return ImageFeatures(found.reshape(-1, found.shape[-1]))


@dataclass(frozen=True)
class VisionGraph:
    """A vision half as one graph.

    Attributes:
        build: encoder and connector as one module.
        inputs: of the graph.
        outputs: names of its outputs, the first `FEATURES`; each float32 [..., tokens, hidden] of the language model.
        feeds: what the image processor gave for one image -> an array for each input. One image is one run.
        join: outputs of that run, the image's layout -> what the language model is given; nothing leaves the GPU in it.
        pictures: the first axis of inputs and outputs are pictures that know nothing of each other.
        refused: the model's `vision_config` -> why an encoder that the family may have is not exported, or None.
    """

    build: Build
    inputs: tuple[GraphInput, ...] = PICTURES
    outputs: Callable[[Config], tuple[str, ...]] = _one_output
    feeds: Callable[[Given, Config], Arrays] = _pixels
    join: Callable[[Made, Layout, Config], ImageFeatures] = _rows
    pictures: bool = True
    refused: Callable[[Mapping[str, Any]], str | None] = lambda _vision: None

    def lengths(self, feeds: Arrays) -> dict[str, int]:
        """How long the free axes are in one run, but for the batch of pictures."""
        free = () if self.pictures else self.inputs
        return {name: feeds[one.name].shape[axis] for one in free for axis, name in one.free.items()}


Places = Callable[[str, Layout], str]
"""Image token, layout of the image -> the text that stands for the image."""

Positions = Callable[[NDArray[np.int64], int, Sequence[Layout]], NDArray[np.int64]]
"""Prompt [n], number of the image token, layouts of its images -> where each token stands, [n] or [axes, n]."""

Whole = Callable[[Sequence[Given], NDArray[np.int64], int], Arrays]
"""What the image processor gave for each image of a prompt, the prompt [n], number of the image token -> what the whole
model of transformers is given beside `input_ids`, with a batch axis."""

WholeFeatures = Callable[[Any, Mapping[str, "torch.Tensor"]], "torch.Tensor"]
"""The whole model of transformers and what `Whole` gave for one image -> what its language model is given of the image,
all rows behind each other as `stacked` has them, [rows, hidden]."""

Seen = Callable[[NDArray[np.int64], int, Sequence[Layout], Config], NDArray[np.bool_]]
"""Prompt [n], number of the image token, layouts, config -> the cross-attention states that each token looks at,
[n, states]; a row of False for a token that stands before every image."""


def whole_pixels(given: Sequence[Given], _ids: NDArray[np.int64], _token: int) -> Arrays:
    """The pixels of all images, as the processor has them, along their first axis.

    Args:
        given: what the image processor gave for each image.
        _ids, _token: prompt and image token, on which they do not depend.
    """
    return {PIXELS: np.concatenate([np.asarray(one[PIXELS], np.float32) for one in given])}


def sequential(ids: NDArray[np.int64], _token: int, _layouts: Sequence[Layout]) -> NDArray[np.int64]:
    """Positions that count up from 0, int64 [n].

    Args:
        ids: the prompt, int64 [n].
        _token, _layouts: image token and layouts, on which they do not depend.
    """
    return np.arange(len(ids), dtype=np.int64)


@dataclass(frozen=True)
class ImagePrompt:
    """How images are put before the language model.

    Attributes:
        places: what is written in the place of an image.
        layout: what the image processor gave for one image -> its layout.
        attention: `causal`; `image` where the tokens of an image see each other as well; `prompt` where all tokens of
            image and question do.
        positions: where tokens stand. Those that are said stand behind the largest position of the prompt.
        processing: config -> what the family's processor tells its image processor beside what that one's config says.
        marker: what a chat template writes for an image, where that is not the image token: the name of the
            tokenizer's attribute that holds it.
        template: the question goes through a chat template; otherwise it stands behind the image, with `<bos>` between
            them and a new line after it.
        whole: what the whole model of transformers takes, for comparison.
        whole_features: what its language model is given then; by default what `get_image_features` gives.
        cross: of a model that looks at images by cross-attention, which states each token sees.
        most_images: in one conversation; None for as many as the context holds.
    """

    places: Places
    layout: Callable[[Given, Config], Layout]
    attention: Literal["causal", "image", "prompt"] = "causal"
    positions: Positions = sequential
    processing: Callable[[Config], Mapping[str, Any]] = lambda _config: {}
    marker: str | None = None
    template: bool = True
    whole: Whole = whole_pixels
    whole_features: WholeFeatures | None = None
    cross: Seen | None = None
    most_images: int | None = None


Piece = tuple[str, Callable[["torch.Tensor"], "torch.Tensor"]]
"""A name in GGUF, or one that the package gguf turns into it, and what of a stored tensor is stored under it."""


@dataclass(frozen=True)
class LlamaCppForm:
    """How llama.cpp has models of a family: as a language model, and an encoder with connector for its mtmd.

    Attributes:
        model_types: of the family, those that it has.
        architectures: model type of a language half -> `general.architecture` of its file.
        settings: keys of the encoder's file that begin with `clip.`, given the config and the image processor's config
            with every default.
        pieces: what a tensor outside the language model becomes, by its name without a leading `model.`; nothing for
            one that llama.cpp does not need.
        refused: why a model is not run as it is, from the same two; None where it is.
        notes: what llama.cpp does otherwise with images, sentences without a full stop, from the same two.
        frame: what it writes by itself before and behind an image.
        flags: for its commands, from the image processor's config and the most tokens of an image.
    """

    model_types: tuple[str, ...]
    architectures: Mapping[str, str]
    settings: Callable[[Config, Config], Mapping[str, Any]]
    pieces: Callable[[str], Sequence[Piece]]
    refused: Callable[[Config, Config], str | None]
    notes: Callable[[Config, Config], Sequence[str]] = lambda _config, _preprocessor: ()
    frame: tuple[str, str] = ("", "")
    flags: Callable[[Config, int], Sequence[str]] = lambda _preprocessor, _tokens: ()


Cap = Callable[[dict[str, Any], dict[str, Any], int], None]
"""Write a bound of an image's pixels or tiles into preprocessor_config.json and config.json, both as they lie in the
model's directory; raises ValueError for a bound below what the model can do."""


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        name: for people.
        model_types: `model_type` in config.json; no other family has them.
        modules: where its parts are.
        image_cost: what an image costs.
        vision: its vision half as one graph, or why it is not exported.
        prompt: how an image is put before its language model, or why it cannot be run in two halves.
        language_classes: model type of a language half that AutoModelForCausalLM does not know -> its class in
            transformers; `causal_class` gives a head to one that has none.
        caps: what the user may bound of an image, `pixels` or `tiles` -> how that is written into the configs.
        loaded_by: runtime, as `edgeq handover --for` calls it -> the model types whose whole checkpoints it loads; read
            in the releases that decision 0051 names.
        not_loaded_by: runtime -> why it loads none of them, where that is known.
        llama_cpp: how llama.cpp has it, or why it is not written for it; read in the release that decision 0055 names.
    """

    name: str
    model_types: tuple[str, ...]
    modules: ModuleNames
    image_cost: ImageRule
    vision: VisionGraph | Unsupported
    prompt: ImagePrompt | Unsupported
    language_classes: Mapping[str, str] = field(default_factory=dict)
    caps: Mapping[Literal["pixels", "tiles"], Cap] = field(default_factory=dict)
    loaded_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    not_loaded_by: Mapping[str, str] = field(default_factory=dict)
    llama_cpp: LlamaCppForm | Unsupported = Unsupported("llama.cpp runs it, and edgeq does not write its files")


def output_rows(made: Made) -> NDArray[np.float32]:
    """All outputs of a vision graph, one behind the other, float32 [rows, hidden]: for comparison."""
    arrays = [np.asarray(on_host(value), np.float32) for value in made.values()]
    return np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])
