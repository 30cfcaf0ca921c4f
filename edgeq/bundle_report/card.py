"""The model card in each bundle: `README.md`, with the YAML that Hugging Face reads at its top.

https://huggingface.co/docs/hub/model-cards says which keys there are. What nobody has said, such as the licence of the
model, is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from edgeq.bundle.manifest import Manifest
from edgeq.bundle_report.contents import BundleContents, read_contents
from edgeq.bundle_report.document import bundle_document
from edgeq.bundle_report.markdown import as_markdown
from edgeq.bundle_report.sections.quality import headline_of
from edgeq.bundle_report.words import shown
from edgeq.files import atomic_write
from edgeq.quality.tasks.registry import IMAGE_TASKS

__all__ = ["CARD", "front_matter", "model_card", "save_card"]

CARD: Final = "README.md"
"""The card's name in a bundle."""

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_PIPELINES: Final = {task.served_as: task.problem_type for task in reversed(IMAGE_TASKS) if task.served_as}
"""What a manifest calls a task -> the hub's word; of tasks that share the first, that of the first in the list."""
_METRICS: Final = {"top-1": "accuracy", "right answers": "exact_match"}
_TAGS: Final = ("edgeq", "quantized", "onnx", "jetson", "tensorrt")
_USE: Final = """
## How to use it

```bash
hf download ORG/NAME --local-dir BUNDLE
edgeq verify BUNDLE --key NAME.public.pem
edgeq {verb} BUNDLE{arguments}
```

edgeq checks every file, this one too, against manifest.json: a card that was changed on the hub is told as damaged.
"""
_VERBS: Final = {
    "classifier": ("serve", ""),
    "vision-language": ("run", ' image.png "What do you see?"'),
    "retrieval": ("index", " --images IMAGES -o CATALOG"),
}


def save_card(directory: Path, name: str, manifest: Manifest, model: str | Path) -> None:
    """Write the card of a bundle that is being made, before its manifest lists it.

    Args:
        directory: of the bundle, complete but for card and manifest.
        name: that it will have.
        manifest: what it will say, without files.
        model: what it was made of, as it was given; a Hugging Face id is named as its base model.

    Raises:
        OutputError: the disk is full.
    """
    contents = read_contents(directory, name, manifest)
    atomic_write(directory / CARD, model_card(contents, model).encode())


def model_card(contents: BundleContents, model: str | Path = "") -> str:
    """YAML between two lines of dashes, then the report as Markdown.

    Args:
        contents: of the bundle.
        model: as for `save_card`; empty where that is not known.
    """
    data = yaml.safe_dump(front_matter(contents, model), sort_keys=False, allow_unicode=True, width=120)
    verb, arguments = _VERBS[contents.manifest.kind]
    used = _USE.format(verb=verb, arguments=arguments)
    return f"---\n{data}---\n\n{as_markdown(bundle_document(contents))}{used}"


def front_matter(contents: BundleContents, model: str | Path = "") -> dict[str, Any]:
    """What Hugging Face's hub sorts, filters and shows models by.

    Args:
        contents: of the bundle.
        model: as for `save_card`.
    """
    found: dict[str, Any] = {"library_name": "edgeq", "pipeline_tag": _pipeline(contents)}
    found["tags"] = [*_TAGS, *_precisions(contents)]
    if _is_hub_id(model):
        found |= {"base_model": str(model), "base_model_relation": "quantized"}
    results = list(_results(contents))
    if results:
        found["model-index"] = [{"name": shown(contents.name, 100), "results": results}]
    return found


def _is_hub_id(model: str | Path) -> bool:
    return isinstance(model, str) and _HUB_ID.fullmatch(model) is not None and not Path(model).exists()


def _pipeline(contents: BundleContents) -> str:
    """The hub's word for what the model does."""
    manifest = contents.manifest
    if manifest.task is not None:
        return _PIPELINES[manifest.task] or ""
    if manifest.kind == "vision-language":
        return "image-text-to-text"
    if manifest.kind == "retrieval":
        return "zero-shot-image-classification"
    return "image-classification" if manifest.labels else "image-feature-extraction"


def _precisions(contents: BundleContents) -> list[str]:
    used = {decision.precision.value for plan in contents.plans.values() for decision in plan.decisions}
    return [name for name in ("int8", "int4", "nf4", "fp16") if name in used]


def _results(contents: BundleContents) -> Iterator[dict[str, Any]]:
    """The quantized network's figure, and FP32's beside it; nothing where nobody said what is right."""
    headline = headline_of(contents)
    if headline is None or not headline.labelled or headline.candidate is None or headline.reference is None:
        return
    kind = _METRICS.get(headline.name, headline.name)
    metrics = [
        {"type": kind, "value": round(value, 4), "name": f"{headline.name} in percent, {who}"}
        for who, value in (("quantized", headline.candidate), (contents.reference, headline.reference))
    ]
    yield {
        "task": {"type": _pipeline(contents)},
        "dataset": {"type": "own", "name": f"{headline.examples} labelled examples of who made the bundle"},
        "metrics": metrics,
    }
