"""What a family of vision-language models is: the contract of `edgeq/families/NAME.py`.

A family is one `Family`, made in a file of its own and named in `registry.FAMILIES`. Nothing else in edgeq asks for a
model type: a fact about a family is taken from here, and a fact that is missing is a field to add here,
with a default, so that the other files stay as they are. In the order in which they are of use:

1. `model_types`, `name`, `modules`: the `model_type` of config.json, and where transformers builds the three parts.
   edgeq finds the parts by structure; the names check what it found. Now `edgeq plan` counts parameters and weights.
2. `image_cost`: tokens of an image, from configs and its size alone. Now `edgeq plan` shows the memory.
3. `vision`: what is between pixels and connector, as torch traces it into one ONNX graph. Now the vision half is
   exported, compared with transformers and put into FP16.
4. `prompt`: what is written in the place of the image, which tokens see which, where positions begin. Now `prepare`
   makes bundles, and `run` and `serve` answer.
5. `language_classes`: only where AutoModelForCausalLM does not know the language half.

Where edgeq cannot do 3 or 4, the field is `Unsupported`, whose reason the user reads; the file says it, not the caller.
A graph with further inputs, tiles that are joined, positions in two dimensions or cross-attention states are fields of
`VisionGraph` and `ImagePrompt` to come.

The file is read on the device, too, which has no torch while it checks a bundle: torch and transformers are imported
inside functions. Rules follow the processors and models of transformers 5, and the tests compare with these.

`tests/families/test_family_contract.py` checks every registered family: model types that no other has, parts where
transformers builds them, a cost for the config that transformers has by default, reasons that can be read, no workshop
package at import. The family's own test file compares costs with transformers' image processor over many sizes. Graph
and prompt are compared with the whole model by `tests/export/test_vision_export.py`, `tests/runtime/vlm/test_prompt.py`
and `test_language.py`, which take a tiny model of each. `docs/extending/family.md` goes through an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from edgeq.families.tiles import Size

if TYPE_CHECKING:
    import torch

    from edgeq.families.modules import VlmDescription

__all__ = [
    "UNCUT",
    "Between",
    "Encode",
    "Family",
    "Grid",
    "ImageCost",
    "ImagePrompt",
    "ImageRule",
    "ModuleNames",
    "Places",
    "Unsupported",
    "VisionGraph",
    "any_size",
    "class_token",
    "last_state",
    "native_size",
    "patches_a_side",
    "plain",
    "stated_cost",
]

_DEFAULT_NATIVE: Final = (448, 448)

Grid = tuple[int, int]
"""Rows and columns that an image was cut into."""

UNCUT: Final[Grid] = (0, 0)
"""The grid of an image that was not cut."""

Places = Callable[[str, int, int, Grid], str]
"""Image token, tokens of one picture, pictures of the image, grid -> the text that stands for the image."""

Encode = Callable[["torch.Tensor"], "torch.Tensor"]
"""Pixels [pictures, 3, height, width] to what the connector is given; both float32."""

Between = Callable[[Any, Any], Encode]
"""From the real encoder and the whole model without bytes."""


@dataclass(frozen=True)
class ImageCost:
    """What one image costs.

    Attributes:
        tokens: places in the language model's context.
        cross_tokens: places that its cross-attention looks at instead; 0 for models without.
        tiles: pictures that the encoder is given.
        sequences, sequence: the encoder's patches: `sequences` runs of `sequence`, in which all attend to all.
        markers: text tokens that the processor writes around the image; not in `tokens`.
    """

    tokens: int
    tiles: int
    sequences: int
    sequence: int
    cross_tokens: int = 0
    markers: int = 0


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
class VisionGraph:
    """A vision half as one graph: pixel_values [pictures, 3, height, width] to features [pictures, tokens, hidden].

    Attributes:
        between: what is before the connector: which hidden state of the encoder is taken, whether the class token is
            dropped, whether patches are merged. As `get_image_features` of transformers does it.
        refused: the model's `vision_config` -> why an encoder that the family may have is not exported, or None.
    """

    between: Between
    refused: Callable[[Mapping[str, Any]], str | None] = lambda _vision: None


@dataclass(frozen=True)
class ImagePrompt:
    """How an image is put before the language model, which gets its features and nothing else of it.

    Attributes:
        places: what is written in the place of the image.
        attention: `causal`, or `prompt` where all tokens of image and question see each other.
        first_position: of the first token.
        processing: what the family's processor tells its image processor beside what the config says.
        grid: what the image processor gave -> rows and columns that it cut the image into.
        template: the question goes through a chat template; otherwise it stands behind the image, with `<bos>` between
            them and a new line after it.
        nested_pixels: the whole model takes pixels as [batch, pictures, 3, height, width], without the batch otherwise.
    """

    places: Places
    attention: Literal["causal", "prompt"] = "causal"
    first_position: int = 0
    processing: Mapping[str, bool] = field(default_factory=dict)
    grid: Callable[[Mapping[str, Any]], Grid] = lambda _given: UNCUT
    template: bool = True
    nested_pixels: bool = False


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
            transformers.
    """

    name: str
    model_types: tuple[str, ...]
    modules: ModuleNames
    image_cost: ImageRule
    vision: VisionGraph | Unsupported
    prompt: ImagePrompt | Unsupported
    language_classes: Mapping[str, str] = field(default_factory=dict)


def native_size(model: VlmDescription) -> Size:
    """The size that the encoder was made for, or 448 x 448 for one that takes any."""
    size = model.vision.get("image_size")
    if isinstance(size, int) and size > 0:
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else _DEFAULT_NATIVE


def patches_a_side(model: VlmDescription) -> int:
    """Patches along one side of a picture of the encoder's own size."""
    patch = model.vision["patch_size"]
    return native_size(model)[0] // int(patch[0] if isinstance(patch, list | tuple) else patch)


def stated_cost(key: str) -> ImageRule:
    """The rule of models that bring every image to one size and state its tokens under `key`, or take each patch."""

    def cost(model: VlmDescription, _size: Size) -> ImageCost:
        sequence = patches_a_side(model) ** 2
        return ImageCost(tokens=int(model.config.get(key) or sequence), tiles=1, sequences=1, sequence=sequence)

    return cost


def class_token(model: VlmDescription) -> int:
    """1 where the encoder has a class token before its patches."""
    return int(model.vision["model_type"] in ("clip_vision_model", "internvl_vision"))


def any_size(vision: Mapping[str, Any]) -> str | None:
    """Why an encoder that several families may have is not exported, from its `vision_config`; None for others."""
    return "its Pixtral encoder takes images of any size" if vision.get("model_type") == "pixtral" else None


def plain(token: str, tokens: int, pictures: int, _grid: Grid) -> str:
    """Places of a family that writes the image's tokens, and nothing around them.

    Args:
        token: that stands for one feature.
        tokens: of one picture.
        pictures: that the image was cut into.
        _grid: rows and columns of those; not looked at.
    """
    return token * (tokens * pictures)


def last_state(encoder: Any, _whole: Any) -> Encode:
    """Between pixels and connector of a family that takes what the encoder gives in the end."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = encoder(pixels, return_dict=True).last_hidden_state
        return states

    return encode
