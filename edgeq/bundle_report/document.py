"""The report of one bundle: which sections, in which order."""

from __future__ import annotations

from edgeq.bundle_report.blocks import Document
from edgeq.bundle_report.contents import BundleContents
from edgeq.bundle_report.sections.answers import answers_section
from edgeq.bundle_report.sections.canaries import canaries_section
from edgeq.bundle_report.sections.layers import layers_section
from edgeq.bundle_report.sections.memory import memory_section
from edgeq.bundle_report.sections.model import kind_of, model_section
from edgeq.bundle_report.sections.plan import plan_section
from edgeq.bundle_report.sections.quality import headline_of, quality_section
from edgeq.bundle_report.sections.trust import guards_section, signature_of, verified_section, versions_section
from edgeq.bundle_report.words import confidence, in_bytes

__all__ = ["bundle_document", "key_facts"]

_SECTIONS = (
    model_section,
    plan_section,
    memory_section,
    quality_section,
    answers_section,
    layers_section,
    canaries_section,
    guards_section,
    verified_section,
    versions_section,
)


def bundle_document(contents: BundleContents) -> Document:
    """Everything that the bundle knows of itself."""
    return Document(
        title=contents.name,
        lead=f"A bundle of {kind_of(contents)}, quantized by {contents.manifest.made_by}.",
        sections=tuple(section(contents) for section in _SECTIONS),
        facts=key_facts(contents),
    )


def key_facts(contents: BundleContents) -> tuple[tuple[str, str], ...]:
    """What a reader wants first."""
    headline = headline_of(contents)
    if headline is None:
        told = "not judged"
    elif headline.labelled:
        told = f"{headline.name} {headline.candidate:.2f} % (was {headline.reference:.2f} %)"
    else:
        told = f"{headline.name}: {headline.drop:.4f} {headline.unit}, without labels"
    facts = [("Answers", told)]
    if headline is not None and headline.labelled:
        facts.append(("Lost", confidence(headline.drop, headline.standard_error, headline.unit)))
    if contents.memory is not None:
        fits = "fits" if contents.memory.fits else "does not fit"
        facts.append(("Memory", f"{in_bytes(contents.memory.needed_bytes)}, {fits} {contents.memory.device.title}"))
    facts.append(("Size", in_bytes(contents.total_bytes)))
    if contents.verified is not None:
        facts.append(("Signature", signature_of(contents)))
    facts.append(("Guards passed", ", ".join(contents.manifest.allowed) or "none"))
    return tuple(facts)
