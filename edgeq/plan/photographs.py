"""How many tokens the user's own photographs become, before anything long is done with them.

The model's own image processor is asked, at full resolution, and the family's rule must say the same: with a rule that
counts otherwise the plan would be of another model. Sizes are read from the files' headers first, so that thousands of
photographs from a few cameras cost a few runs of the processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from edgeq.errors import ImageError, ModelError, first_line
from edgeq.families.base import ImageCost, ImagePrompt, Layout, VisionGraph
from edgeq.families.modules import VlmDescription
from edgeq.families.registry import family_of, image_cost
from edgeq.families.tiles import Size
from edgeq.model.images.image_processor import load_image_processor, read_processor_config
from edgeq.model.images.image_set import ImageItem, ImageSet

__all__ = ["PhotographCount", "count_photographs"]

_HEADERS: Final = 500
_PROCESSED: Final = 8


class PhotographCount(BaseModel):
    """The photograph that costs most, and how it was found.

    Attributes:
        name: in its folder or zip.
        size: height and width in pixels, upright.
        tokens: that it takes of the context, with the text around its tiles.
        photographs: in the folder or zip.
        looked_at: of these, those whose size was read.
        sizes: different ones among them.
        processed: photographs that went through the image processor, of the sizes that cost most; 0 where the model has
            none, and the family's rule alone was asked.
        lengths: free axis of the vision graph, but for the batch of pictures -> how long it was at most with these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: Size
    tokens: int
    photographs: int
    looked_at: int
    sizes: int
    processed: int
    lengths: dict[str, int] = Field(default_factory=dict)


class _Processor(NamedTuple):
    """An image processor with the bounds of its model.

    Attributes:
        process: transformers' image processor.
        prompt: of the family.
        graph: the family's, where a photograph decides how long its axes are.
    """

    process: Any
    prompt: ImagePrompt
    graph: VisionGraph | None


def count_photographs(directory: Path, model: VlmDescription, images: ImageSet) -> PhotographCount:
    """Find the photograph that costs most.

    At most 500 photographs' headers are read; of the eight sizes that cost most, one photograph each is processed.

    Args:
        directory: the model's, with its image processor's config if there is one.
        model: it, with the bounds that its images shall have.
        images: photographs like those that it will see.

    Raises:
        ImageError: none of them can be read.
        ModelError: the family's rule is not known, the image processor cannot be used, or the two count differently.
    """
    found, looked_at = _sizes(images)
    costs = {size: image_cost(model, size) for size in found}
    dearest = sorted(found, key=lambda size: _weight(costs[size], size), reverse=True)
    runs: list[dict[str, int]] = []
    if (processor := _processor(directory, model)) is not None:
        for size in dearest[:_PROCESSED]:
            lengths = _processed(processor, model, images, found[size])
            runs += [] if lengths is None else [lengths]
    worst = dearest[0]
    return PhotographCount(
        name=found[worst].name,
        size=worst,
        tokens=costs[worst].tokens + costs[worst].markers,
        photographs=len(images),
        looked_at=looked_at,
        sizes=len(found),
        processed=len(runs),
        lengths={name: max(run[name] for run in runs) for name in (runs[0] if runs else ())},
    )


def _sizes(images: ImageSet) -> tuple[dict[Size, ImageItem], int]:
    """One photograph of each size, and how many were looked at."""
    found: dict[Size, ImageItem] = {}
    sample = images.sample(_HEADERS).items
    skipped = 0
    for item in sample:
        try:
            found.setdefault(images.size(item), item)
        except ImageError as error:
            skipped, last = skipped + 1, error
    if not found:
        raise ImageError(f"no image of {images.path} can be read, {skipped} were tried", causes=(last.what,))
    return found, len(sample) - skipped


def _weight(cost: ImageCost, size: Size) -> tuple[int, int, int]:
    """What decides which photograph is the dearest: tokens, then patches, then pixels."""
    return cost.tokens + cost.markers, cost.sequences * cost.sequence**2, size[0] * size[1]


def _processor(directory: Path, model: VlmDescription) -> _Processor | None:
    """What the image processor of `model` is asked with; None where the model or edgeq's family lacks it."""
    family = family_of(model.model_type)
    if family is None or not isinstance(family.prompt, ImagePrompt) or not read_processor_config(directory):
        return None
    graph = family.vision if isinstance(family.vision, VisionGraph) and not family.vision.pictures else None
    return _Processor(load_image_processor(directory, model.preprocessor), family.prompt, graph)


def _processed(
    processor: _Processor, model: VlmDescription, images: ImageSet, item: ImageItem
) -> dict[str, int] | None:
    """Lengths of the graph's free axes with a photograph, where the processor counts as the rule does.

    None for one that cannot be decoded.
    """
    try:
        photograph = images.read(item)
    except ImageError:
        return None
    layout, lengths = _asked(processor, model, photograph, item.name)
    size = photograph.height, photograph.width
    cost = image_cost(model, size)
    asked, reckoned = (layout.tokens, layout.pictures * layout.patches), (cost.tokens, cost.sequences * cost.sequence)
    if asked != reckoned:
        raise ModelError(
            f"{item.name}, {size[0]} x {size[1]} pixels, becomes {asked[0]:,} tokens of {asked[1]:,} patches in the "
            f"image processor of {model.name}, and edgeq's rule for the family says {reckoned[0]:,} of {reckoned[1]:,}",
            causes=(
                "preprocessor_config.json is that of another model",
                "this release of transformers cuts images differently from the one edgeq knows",
            ),
            next_step="report it: a memory plan would be wrong",
        )
    return lengths


def _asked(processor: _Processor, model: VlmDescription, photograph: Any, name: str) -> tuple[Layout, dict[str, int]]:
    """What the prompt depends on of a photograph, as the image processor makes it, and lengths of free axes."""
    prompt, graph = processor.prompt, processor.graph
    try:
        options = prompt.processing(model.config)
        given: Mapping[str, Any] = processor.process(images=photograph, return_tensors="np", **options)
        lengths = {} if graph is None else graph.lengths(graph.feeds(given, model.config))
        return prompt.layout(given, model.config), lengths
    except Exception as error:  # a processor given an odd shape raises whatever its arithmetic does
        raise ModelError(
            f"the image processor of {model.name} cannot take {name}, {photograph.height} x {photograph.width} pixels",
            causes=(first_line(error),),
        ) from error
