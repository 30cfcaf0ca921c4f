"""What goes in and comes out beside chat: images to classify, embed and report on, models, health."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

__all__ = [
    "IMAGE_URI",
    "Class",
    "ClassifyRequest",
    "ClassifyResponse",
    "EmbedRequest",
    "Embedding",
    "Embeddings",
    "Health",
    "InspectRequest",
    "Model",
    "ModelList",
]

IMAGE_URI: Final = "image-uri"
"""The format, in the description, of a text that is `data:image/...;base64,...` or an address."""

_ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Image = Annotated[str, StringConstraints(min_length=1), Field(json_schema_extra={"format": IMAGE_URI})]


class _Form(BaseModel):
    """What is asked.

    Attributes:
        model: as `/v1/models` names it; may be left out.
        image: `data:image/jpeg;base64,...`, or an address of a host that was allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: _ModelName | None = None
    image: _Image


class ClassifyRequest(_Form):
    """An image to name.

    Attributes:
        top: so many classes, the likeliest first.
    """

    top: int = Field(default=5, ge=1, le=1000)


class EmbedRequest(_Form):
    """An image to turn into a vector.

    Attributes:
        normalize: divide it by its length.
    """

    normalize: bool = False


class InspectRequest(_Form):
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
