"""Name a file by its first bytes, so that an error can say what it is instead of what it is not."""

from __future__ import annotations

__all__ = ["HEAD_BYTES", "recognise"]

HEAD_BYTES = 512
"""How many bytes from the start of a file `recognise` wants to see."""

_SIGNATURES = (
    (b"version https://git-lfs", "a git-LFS pointer, not the file itself (run `git lfs pull` where it came from)"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"GGUF", "a GGUF file (llama.cpp)"),
    (b"PK\x03\x04", "a zip archive or a PyTorch checkpoint (.pt, .bin)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x02", "a Python pickle or an old PyTorch checkpoint (.pt, .bin)"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x89HDF", "an HDF5 file (Keras)"),
    (b"\x7fELF", "a program or a library"),
)


def recognise(head: bytes) -> str | None:
    """What the first bytes of a file show it to be, in words, or None when they are of no known kind.

    Args:
        head: up to HEAD_BYTES bytes from the start of the file.
    """
    for signature, words in _SIGNATURES:
        if head.startswith(signature):
            return words
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file"
    return _recognise_text(head)


def _recognise_text(head: bytes) -> str | None:
    """HTML and JSON, which often are error messages saved under the name of a model."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML or XML page (a download that failed?)"
    if text.startswith((b'{"', b"{\n", b"{\r", b"[{")):
        return "a JSON text"
    return None
