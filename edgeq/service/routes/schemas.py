"""What goes in and comes out beside chat: images to classify, embed and report on, models, health."""

# No annotations from __future__: pydantic 2.7 reads that of `Form.__pydantic_extra__` in a subclass's module.

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

__all__ = [
    "IMAGE_URI",
    "Box",
    "Class",
    "ClassifyRequest",
    "ClassifyResponse",
    "DetectRequest",
    "DetectResponse",
    "DetectedObject",
    "EmbedRequest",
    "Embedding",
    "Embeddings",
    "Form",
    "Health",
    "InspectRequest",
    "Model",
    "ModelList",
    "SegmentRequest",
    "SegmentResponse",
    "SegmentedClass",
]

IMAGE_URI: Final = "image-uri"
"""The format, in the description, of a text that is `data:image/...;base64,...` or an address."""

_ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Image = Annotated[str, StringConstraints(min_length=1), Field(json_schema_extra={"format": IMAGE_URI})]


def _unknown(value: Any, _handler: ValidatorFunctionWrapHandler) -> None:
    if value is not None:
        raise PydanticCustomError("extra_forbidden", "it is not known here, or asks for what is not done")


class Form(BaseModel):
    """What is asked. A field that is not known here may be null, which asks for nothing."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, Annotated[None, WrapValidator(_unknown)]]


class _ImageForm(Form):
    """What is asked about an image.

    Attributes:
        model: as `/v1/models` names it; may be left out.
        image: `data:image/jpeg;base64,...`, or an address of a host that was allowed.
    """

    model: _ModelName | None = None
    image: _Image


class ClassifyRequest(_ImageForm):
    """An image to name.

    Attributes:
        top: so many classes, the likeliest first.
    """

    top: int = Field(default=5, ge=1, le=1000)


class EmbedRequest(_ImageForm):
    """An image to turn into a vector.

    Attributes:
        normalize: divide it by its length.
    """

    normalize: bool = False


class DetectRequest(_ImageForm):
    """An image to find objects on.

    Attributes:
        score: what is less likely is left out.
        top: so many objects at most, the likeliest first.
    """

    score: float = Field(default=0.25, ge=0.01, le=1.0)
    top: int = Field(default=100, ge=1, le=300)


class SegmentRequest(_ImageForm):
    """An image whose pixels are to be named."""


class InspectRequest(_ImageForm):
    """An image to report on.

    Attributes:
        question: in the place of the phrases' own.
        max_tokens: of what the model says.
    """

    question: Annotated[str, StringConstraints(min_length=1, max_length=10_000)] | None = None
    max_tokens: int = Field(default=128, ge=1, le=100_000)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class Class(_Answer):
    """A class.

    Attributes:
        index: of the logit.
        label: as the bundle names it; null where it has no names.
        score: softmax over all logits. It is no probability unless the network was calibrated to give one.
    """

    index: int
    label: str | None
    score: float


class ClassifyResponse(_Answer):
    """The likeliest classes."""

    object: Literal["classification"] = "classification"
    model: str
    classes: tuple[Class, ...]


class Box(_Answer):
    """A box in pixels of the image, counted from its left upper corner."""

    left: float
    top: float
    right: float
    bottom: float


class DetectedObject(_Answer):
    """An object.

    Attributes:
        index: of its class.
        label: as the bundle names it; null where it has no names.
        score: 0..1.
        box: around it.
    """

    index: int
    label: str | None
    score: float
    box: Box


class Keypoint(_Answer):
    """A keypoint, in pixels of the image, which it may leave.

    Attributes:
        x, y: counted from the image's left upper corner.
        visibility: 0..1; 1 where the network does not say.
    """

    x: float
    y: float
    visibility: float


class PosedObject(DetectedObject):
    """An object with keypoints, in the order of the network's training."""

    keypoints: tuple[Keypoint, ...]


class DetectResponse(_Answer):
    """The objects, the likeliest first; with keypoints where the network gives them."""

    object: Literal["detection"] = "detection"
    model: str
    objects: tuple[PosedObject | DetectedObject, ...]


class SegmentedClass(_Answer):
    """A class that some pixels have.

    Attributes:
        index: of it: the value of these pixels in the mask.
        label: as the bundle names it; null where it has no names.
        pixels: of the mask.
    """

    index: int
    label: str | None
    pixels: int


class SegmentResponse(_Answer):
    """A class for each pixel.

    Attributes:
        width, height: of the mask, which are the image's, or smaller where a side of it is above 2048.
        classes: those that occur.
        mask: a grey PNG whose pixels are class numbers, in base64.
    """

    object: Literal["segmentation"] = "segmentation"
    model: str
    width: int
    height: int
    classes: tuple[SegmentedClass, ...]
    mask: str


class Embedding(_Answer):
    """A vector."""

    object: Literal["embedding"] = "embedding"
    index: Literal[0] = 0
    embedding: tuple[float, ...]


class Embeddings(_Answer):
    """One vector, in the form of OpenAI's embeddings."""

    object: Literal["list"] = "list"
    model: str
    data: tuple[Embedding, ...]


class Model(_Answer):
    """A model.

    Attributes:
        created: in seconds since 1970.
        max_model_len: tokens of a request at most, answer included; of a text and image encoder, tokens that it reads
            of a text; null for a classifier.
        max_images: in one request; null for a classifier, which takes one.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["edgeq"] = "edgeq"
    kind: Literal["classifier", "vision-language", "retrieval"]
    digest: str
    max_model_len: int | None
    max_images: int | None


class ModelList(_Answer):
    """The one model that is served."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]


class Health(_Answer):
    """How the service is, in a word and a sentence."""

    status: Literal["ok", "failing", "draining"]
    reason: str = ""
