"""Pictures that are small as files and take long, or much memory, to decode."""

from __future__ import annotations

import io

from PIL import Image

_SOS, _EOI = b"\xff\xda", b"\xff\xd9"


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG of side x side pixels whose last scan comes again and again: each goes over all blocks."""
    file = io.BytesIO()
    Image.new("L", (side, side), 100).save(file, "JPEG", progressive=True)
    whole = file.getvalue().removesuffix(_EOI)
    last = whole[whole.rindex(_SOS) :]
    return whole + last * scans + _EOI
