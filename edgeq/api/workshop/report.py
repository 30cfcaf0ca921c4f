"""What a bundle knows of itself, for people; and a bundle to Hugging Face's hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edgeq.bundle.verify import Trust
from edgeq.bundle_report.beside import beside_document
from edgeq.bundle_report.blocks import Document
from edgeq.bundle_report.contents import open_contents
from edgeq.bundle_report.document import bundle_document
from edgeq.bundle_report.markdown import as_markdown
from edgeq.bundle_report.render import as_html
from edgeq.errors import OutputError
from edgeq.files import atomic_write
from edgeq.hub import Pushed, plan_push
from edgeq.hub import push as send

__all__ = ["push", "report"]

_WRITERS: Final[dict[str, Callable[[Document], str]]] = {
    ".html": as_html,
    ".htm": as_html,
    ".md": as_markdown,
}
"""By the ending of the file's name."""


def report(
    bundle: str | Path,
    output: str | Path = "report.html",
    *,
    beside: str | Path | None = None,
    images: str | Path | None = None,
    keys: Sequence[str | Path] = (),
) -> Path:
    """Write what a bundle knows of itself as one page: what it is, what was done and why, figures, canaries, digests.

    Args:
        bundle: its directory; it is checked first.
        output: a file that ends in .html, which needs no other file, or in .md; it is replaced where it exists.
        beside: another bundle: what is different between the two is written instead.
        images: a folder or zip with the images that were judged, for pictures that the bundle does not have.
        keys: files of public keys; the bundles must be signed by one of them. Without any, signatures are not checked.

    Returns:
        The file.

    Raises:
        BundleError: a bundle is not whole, or not signed as it must be.
        ImageError: there are no images in `images`.
        OutputError: the name ends otherwise, lies in a bundle, or cannot be written.
    """
    path, bundles = Path(output), [Path(each) for each in (bundle, beside) if each is not None]
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise OutputError(f"{path} is to be a report", expected=f"a name that ends in {', '.join(_WRITERS)}")
    inside = next((each for each in bundles if each.resolve() in path.resolve().parents), None)
    if inside is not None:
        raise OutputError(
            f"{path} would lie in the bundle {inside}, which would not be whole any more",
            next_step="choose another place with -o",
        )
    trust = Trust.of([Path(key) for key in keys])
    contents = [open_contents(each, trust=trust, images=None if images is None else Path(images)) for each in bundles]
    document = bundle_document(contents[0]) if beside is None else beside_document(*contents)
    atomic_write(path, writer(document).encode())
    return path


def push(
    bundle: str | Path,
    repository: str,
    *,
    private: bool = True,
    remove_others: bool = False,
    keys: Sequence[str | Path] = (),
    endpoint: str | None = None,
    token: str | None = None,
) -> Pushed:
    """Send a bundle to Hugging Face's hub, in one commit: its files, manifest and signature, and nothing else.

    Args:
        bundle: its directory; it is checked first.
        repository: `ORG/NAME`; it is made where it is not there.
        private: a repository that is made is private, and one that is there must be.
        remove_others: remove files there that the bundle does not have; without it they are an error.
        keys: files of public keys; the bundle must be signed by one of them.
        endpoint: the hub's address; None leaves it to huggingface_hub.
        token: for the hub; None leaves it to huggingface_hub.

    Raises:
        BundleError: the bundle is not whole, or not signed as it must be.
        InputError: the repository's name is none, it is public, or holds other files.
        OutputError: the hub refused, or cannot be reached.
    """
    trust = Trust.of([Path(key) for key in keys])
    plan = plan_push(Path(bundle), repository, private=private, trust=trust)
    return send(plan, remove=remove_others, endpoint=endpoint, token=token)
