"""`/v1/embeddings` as OpenAI's clients write and read it, images too, and `/v1/search`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from edgeq.runtime.retrieval.tokenizer import MOST_CHARACTERS
from edgeq.service.routes.chat_schema import ImagePart
from edgeq.service.routes.schemas import Form

__all__ = [
    "MOST_INPUTS",
    "EmbeddedInput",
    "EmbeddingsRequest",
    "EmbeddingsResponse",
    "EmbeddingsUsage",
    "Item",
    "SearchRequest",
    "SearchResponse",
    "SearchedImage",
]

MOST_INPUTS: Final = 256
"""Texts and images of one request."""

_MOST_COLUMNS = 8
_MOST_VALUES = 64
_LARGEST = 2**63 - 1

_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Text = Annotated[str, StringConstraints(max_length=MOST_CHARACTERS)]
_Value = (
    Annotated[str, StringConstraints(max_length=1000)]
    | Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
    | Annotated[float, Field(allow_inf_nan=False)]
)

Item = _Text | ImagePart
"""What is embedded: a text, or an image whose address is a data URI."""


class EmbeddingsRequest(Form):
    """Texts and images to turn into vectors of one space.

    Attributes:
        model: as `/v1/models` names it.
        input: a text, an image, or several; token numbers are not read.
        encoding_format: numbers, or the bytes of float32, little-endian, in base64; the numbers are the same.
        dimensions: may be given, and is the model's own then: its vectors are not cut.
        user: taken and not used.
    """

    model: _Name
    input: Item | Annotated[list[Item], Field(min_length=1, max_length=MOST_INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=1_000_000)
    user: _Text | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _no_tokens(cls, given: Any) -> Any:
        """Say of numbers what is wrong with them, rather than that they are no text."""
        first = given[0] if isinstance(given, list) and given else None
        if isinstance(first, int | list):
            raise ValueError("token numbers are not taken, as each model has its own: send the texts themselves")
        return given

    @property
    def items(self) -> tuple[Item, ...]:
        """All texts and images, in order."""
        return tuple(self.input) if isinstance(self.input, list) else (self.input,)


class SearchRequest(Form):
    """A text or an image, to find images like it.

    Attributes:
        model: as `/v1/models` names it; may be left out.
        query: a text in plain words, or an image.
        k: so many images, at most.
        filter: by column of the catalog, the value that an image has there, or several of which it has one; an image
            suits all columns that are named.
    """

    model: _Name | None = None
    query: Item
    k: int = Field(default=10, ge=1, le=100)
    filter: (
        Annotated[
            dict[
                _Name,
                _Value | Annotated[tuple[_Value, ...], Field(min_length=1, max_length=_MOST_VALUES)],
            ],
            Field(max_length=_MOST_COLUMNS),
        ]
        | None
    ) = None

    @property
    def only(self) -> dict[str, tuple[str | int | float, ...]]:
        """The filter with several values everywhere."""
        given = self.filter or {}
        return {column: values if isinstance(values, tuple) else (values,) for column, values in given.items()}


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class EmbeddedInput(_Answer):
    """A vector of length one.

    Attributes:
        index: of the text or image in the request.
        embedding: numbers, or float32 in base64.
    """

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: tuple[float, ...] | str


class EmbeddingsUsage(_Answer):
    """Tokens of all texts; images have none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(_Answer):
    """A vector for each text and image, in their order."""

    object: Literal["list"] = "list"
    data: tuple[EmbeddedInput, ...]
    model: str
    usage: EmbeddingsUsage


class SearchedImage(_Answer):
    """An image that was found.

    Attributes:
        image_path: where it was when it was indexed; of an image in an archive, its name behind the archive's.
        score: cosine with the query.
        row: its number in the catalog.
        columns: what else the catalog knows of it.
    """

    image_path: str
    score: float
    row: int
    columns: dict[str, str | int | float | None]


class SearchResponse(_Answer):
    """The images that suit best, the best first."""

    object: Literal["list"] = "list"
    model: str
    results: tuple[SearchedImage, ...]
