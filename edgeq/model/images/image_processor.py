"""transformers' image processor of a model, in the form that needs Pillow alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeq.errors import ModelError, first_line

__all__ = ["load_image_processor"]


def load_image_processor(model: Path) -> Any:
    """The processor that comes with a model, without torchvision; nothing is downloaded.

    Raises:
        ModelError: there is none, or it cannot be made.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(model, backend="pil", local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a config can be wrong in as many ways as there are processors
        raise ModelError(
            f"{model} has no image processor that can be used: how photographs become pixels is not known",
            expected="preprocessor_config.json or processor_config.json, as it came with the model",
            causes=(first_line(error),),
        ) from error
