"""What a person may choose for the calibration; nothing heavy is imported for it."""

from __future__ import annotations

from typing import Final

__all__ = ["AUTO", "CALIBRATION_IMAGES", "SEARCH", "WITHOUT_TRIALS"]

AUTO: Final = "auto"
"""The method that tries the others, and the default."""
SEARCH: Final = "search"
"""`auto`, and then a search for each tensor's own range, which starts from what `auto` chose."""
WITHOUT_TRIALS: Final = "mse"
"""What `auto` stands for where there are too few images to try anything on."""
CALIBRATION_IMAGES: Final = 512
"""How many images of a larger set are taken."""
