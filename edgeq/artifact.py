"""What one stage hands to the next as a JSON file: frozen, with a version, written in one step, read with suspicion."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from edgeq.errors import ArtifactError
from edgeq.files import atomic_write, require_plain
from edgeq.old_names import current_keys
from edgeq.strict_json import read_model

__all__ = ["MAX_ARTIFACT_BYTES", "Artifact", "LaterFields", "Versioned"]

MAX_ARTIFACT_BYTES: Final = 256 * 1024 * 1024
"""A larger file is not read at all."""

_SHOWN = 300


class LaterFields(BaseModel):
    """A model that has grown: its later fields are not written where they have their default.

    So what does not need them is, byte for byte, as it was before, and is read by releases before.

    Attributes:
        later: names of these fields.
    """

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields, values = type(self).model_fields, handler(self)
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in self.later}
        unused = {name for name, default in defaults.items() if getattr(self, name) == default}
        return {name: value for name, value in values.items() if name not in unused}


class Versioned(BaseModel):
    """What has a field `version`: names of the release before are read as well (`edgeq.old_names`)."""

    @model_validator(mode="before")
    @classmethod
    def _with_current_names(cls, values: Any) -> Any:
        return current_keys(values)


class Artifact(Versioned, LaterFields):
    """A model with a field `version`, whose default is the one version that is read.

    Attributes:
        otherwise: what is said of a file that holds something else, behind its name.
        made_by: what writes such files; empty where that goes without saying.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    otherwise: ClassVar[str]
    made_by: ClassVar[str] = ""

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        atomic_write(path, self.model_dump_json(indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one back.

        Raises:
            ArtifactError: the file is missing, too large, no JSON, or of another kind or version.
        """
        try:
            require_plain(path)
            if path.stat().st_size > MAX_ARTIFACT_BYTES:
                raise ValueError(f"larger than {MAX_ARTIFACT_BYTES} bytes")
            return read_model(cls, path.read_bytes())
        except (OSError, ValueError, ValidationError) as error:
            version = cls.model_fields["version"].default
            raise ArtifactError(
                f"{path} {cls.otherwise}",
                expected=f"JSON with version {version}" + (f", written by {cls.made_by}" if cls.made_by else ""),
                causes=(" ".join(str(error).split())[:_SHOWN],),
            ) from error
