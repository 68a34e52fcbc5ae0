"""What the header of a JPEG 2000 code stream says of its loss.

Source: ITU-T T.800, annex A.6.1 (COD).
"""

from __future__ import annotations

from storage.coding import Coding

_CODING_STYLE = b"\xff\x52"
_STREAM = b"\xff\x4f\xff\x51"
# From the marker to the kind of wavelet: length, style, progression, layers, colour transform,
# levels, block sides and their style come before.
_TO_WAVELET = 13
_IRREVERSIBLE = 0


def lossy_wavelet(head: bytes) -> Coding | None:
    """Return the coding of a stream, None where its wavelet can be exact.

    head: from the start of the stream, or of the boxes around it. A reversible wavelet whose code
    was cut to fewer bytes has lost something too, which no header tells.
    """
    start = head.find(_STREAM)
    marker = head.find(_CODING_STYLE, max(start, 0))
    kind = marker + _TO_WAVELET
    if start < 0 or marker < 0 or kind >= len(head) or head[kind] != _IRREVERSIBLE:
        return None
    return Coding(name="JPEG 2000", said="lossy wavelet without blocks")
