"""Guards that were passed, what is verified and what is not, versions, digests and the signature."""

from __future__ import annotations

from collections.abc import Iterator

from edgeq.bundle_report.blocks import Block, Paragraph, Section, Table
from edgeq.bundle_report.contents import BundleContents
from edgeq.bundle_report.sections.quality import headline_of
from edgeq.bundle_report.words import in_bytes
from edgeq.plan.guards import GUARDS
from edgeq.quality.gate import Gate

__all__ = ["guards_section", "signature_of", "verified_section", "versions_section"]

_FILES = 500
_YES, _NO, _PARTLY = "yes", "no", "partly"


def guards_section(contents: BundleContents) -> Section:
    """Each guard that said no, and why it was passed all the same."""
    allowed = contents.manifest.allowed
    if not allowed:
        return Section("guards", "Guards that were passed", (Paragraph("None: no guard had to be allowed."),))
    known = {guard.code: guard for guard in GUARDS}
    rows = (
        (code, known[code].title if code in known else "not known here", known[code].why if code in known else "", why)
        for code, why in allowed.items()
    )
    table = Table.of("", ("guard", "what it stops", "why it does", "why it was allowed here"), rows)
    return Section("guards", "Guards that were passed", (table,))


def verified_section(contents: BundleContents) -> Section:
    """What was shown, by what; and what nobody has shown."""
    table = Table.of("", ("what", "verified", "how"), _states(contents))
    faults = [Paragraph(f"{file} could not be read: {why}", warning=True) for file, why in contents.faults.items()]
    return Section("verified", "What is verified, and what is not", (table, *faults))


def _states(contents: BundleContents) -> Iterator[tuple[str, str, str]]:
    if contents.verified is not None:
        count = len(contents.manifest.files)
        yield "files", _YES, f"length and SHA-256 of all {count} files, when this report was made"
        yield "origin", *_origin(contents)
    if contents.export is not None:
        parity = contents.export.parity
        told = f"largest error {parity.relative:.1e} of the outputs' range on {parity.images} images"
        yield "the FP32 graph computes what the model does", _YES, f"{told}; allowed: {parity.bound:.0e}"
    if contents.vision is not None:
        told = f"worst cosine {contents.vision.parity.worst_cosine:.8f} over {contents.vision.parity.tokens:,} tokens"
        yield "the FP32 vision graph computes what the model does", _YES, told
        if contents.vision.fp16 is not None:
            parity16 = contents.vision.fp16.parity
            told = f"worst cosine {parity16.worst_cosine:.6f} over {parity16.tokens:,} tokens"
            yield "the FP16 vision graph stays near FP32", _YES, f"{told}, with FP16 rounding simulated"
    yield "answers of the quantized network", *_answers(contents)
    if isinstance(contents.gate, Gate):
        for other in contents.gate.others:
            yield f"{other.graph}, for {other.made_for}", _PARTLY, f"run in the workshop by {other.run_by}"
    yield "the engine that a device builds", _NO, "there: edgeq build compares it with the canaries"
    yield "speed on a device", _NO, "there: edgeq bench"
    if contents.memory is not None:
        yield "memory on a device", _NO, "planned from the model's configs and reports of devices; not measured"


def _origin(contents: BundleContents) -> tuple[str, str]:
    told = signature_of(contents)
    return (_YES if contents.verified and contents.verified.signed_by else _NO), told


def signature_of(contents: BundleContents) -> str:
    """Whose signature it has, and whether that was checked."""
    if contents.verified is not None and contents.verified.signed_by is not None:
        return f"signed with the key {contents.verified.signed_by}, which was checked"
    if contents.sealed_by is not None:
        return f"it says it is signed with the key {contents.sealed_by}; not checked, no key was given (--key)"
    if contents.verified is not None and contents.verified.seal is not None:
        return "there is a signature that could not be read"
    return "not signed"


def _answers(contents: BundleContents) -> tuple[str, str]:
    headline = headline_of(contents)
    if headline is None:
        return _NO, "nothing was compared"
    if not headline.labelled:
        return _PARTLY, f"compared with {contents.reference} on {headline.examples:,} examples without labels"
    return _YES, f"judged on {headline.examples:,} labelled examples, beside {contents.reference}"


def versions_section(contents: BundleContents) -> Section:
    """Who made it of what, which release it is, its digests."""
    manifest = contents.manifest
    rows = [("made by", manifest.made_by), ("manifest", manifest.version)]
    if contents.verified is not None:
        rows += [("digest of the bundle (SHA-256 of its manifest)", contents.verified.digest)]
        rows += [("signature", signature_of(contents))]
    release = manifest.release
    if release is not None:
        rows += [("release", f"{release.sequence} of {release.product}"), ("made", str(release.made))]
        rows += [("to be installed before", str(release.expires))] if release.expires else []
    blocks: list[Block] = [Table.of("", ("what", "value"), [*rows, *_needs(contents)])]
    if manifest.files:
        listed = ((file.name, f"{file.size:,}", file.sha256) for file in manifest.files)
        header = ("file", "bytes", "SHA-256")
        title = f"Files ({len(manifest.files)})"
        blocks.append(Table.of(title, header, listed, numbers=(1,), folded=True, most=_FILES))
    return Section("versions", "Versions, digests and signature", tuple(blocks))


def _needs(contents: BundleContents) -> Iterator[tuple[str, str]]:
    needs = contents.manifest.needs
    if needs.memory_bytes is not None:
        yield "needs memory", in_bytes(needs.memory_bytes)
    if needs.compute_capability:
        yield "needs a GPU of compute capability", " or ".join(needs.compute_capability)
    for title, wanted in (("TensorRT", needs.tensorrt), ("edgeq", needs.edgeq)):
        if wanted:
            yield f"needs {title}", wanted
