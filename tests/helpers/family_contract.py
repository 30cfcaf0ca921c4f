"""What every family of vision-language models must keep to, as `edgeq/families/base.py` says it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from edgeq.errors import ExportError, InputError, ModelError
from edgeq.families.base import FEATURES, Family, ImagePrompt, Layout, LlamaCppForm, Unsupported, VisionGraph
from edgeq.families.modules import read_vlm
from edgeq.families.registry import exportable, family_of, image_cost, language_class, llama_cpp_form, runnable

__all__ = ["check_family"]

_SIZES = ((1, 1), (336, 336), (480, 640), (2500, 50))


def check_family(family: Family, directory: Path) -> None:
    """Check a registered family; `directory` is an empty one for the configs that transformers has by default."""
    assert family.name.strip()
    assert family.model_types
    for model_type in family.model_types:
        assert family_of(model_type) is family, "no other family has it"
        _check_description(model_type, directory / model_type)
        _check_vision(family, model_type)
        _check_prompt(family, model_type)
        _check_llama_cpp(family, model_type)
    for model_type, name in family.language_classes.items():
        assert language_class(model_type) == name
        assert issubclass(getattr(transformers, name), transformers.PreTrainedModel)


def _check_description(model_type: str, directory: Path) -> None:
    """Parts lie where the family says, or `read_vlm` raises; and each image costs something."""
    CONFIG_MAPPING[model_type]().save_pretrained(directory)
    model = read_vlm(directory)
    assert all(model.component(part).parameters for part in ("vision", "connector", "language"))
    for size in _SIZES:
        cost = image_cost(model, size)
        assert min(cost.tokens, cost.tiles, cost.sequences, cost.sequence) > 0
        assert min(cost.cross_tokens, cost.markers) >= 0


def _check_vision(family: Family, model_type: str) -> None:
    """A graph, or a reason that the error names."""
    if isinstance(family.vision, VisionGraph):
        assert exportable(model_type, {}) is family.vision
        assert len({one.name for one in family.vision.inputs}) == len(family.vision.inputs) > 0
        assert all(one.free for one in family.vision.inputs), "each input has an axis that is free"
        config = CONFIG_MAPPING[model_type]().to_dict()
        assert family.vision.outputs(config)[0] == FEATURES
        return
    with pytest.raises(ExportError) as caught:
        exportable(model_type, {})
    assert caught.value.what.endswith(f": {_clause(family.vision)}")


def _check_prompt(family: Family, model_type: str) -> None:
    """One place for each feature, cut or not; or a reason that the error names."""
    if isinstance(family.prompt, ImagePrompt):
        assert runnable(model_type) is family.prompt
        assert isinstance(family.vision, VisionGraph), "what is run has a vision engine"
        assert family.prompt.places("*", Layout(5, 1, 20)).count("*") == 5
        assert family.prompt.places("*", Layout(5 * 7, 7, 20, (2, 3))).count("*") == 5 * 7
        positions = family.prompt.positions(np.arange(9), 90, ())
        assert positions.shape[-1] == 9
        assert (np.diff(positions) == 1).all(), "text alone counts up"
        assert positions.min() >= 0
        return
    with pytest.raises(ModelError) as caught:
        runnable(model_type)
    assert caught.value.causes == (_clause(family.prompt),)


def _check_llama_cpp(family: Family, model_type: str) -> None:
    """A form for this model type, or a reason that the error names."""
    form = family.llama_cpp
    if isinstance(form, LlamaCppForm):
        assert set(form.model_types) <= set(family.model_types)
        assert form.architectures
        if model_type in form.model_types:
            assert llama_cpp_form(model_type) is form
            return
    with pytest.raises(InputError) as caught:
        llama_cpp_form(model_type)
    if isinstance(form, Unsupported):
        assert caught.value.what.endswith(f": {_clause(form)}")


def _clause(lacking: Unsupported) -> str:
    """The reason, which must go on after a colon."""
    because = lacking.because
    assert len(because.split()) > 3
    assert because[0].islower()
    assert because[-1] not in ".!,;: "
    return because
