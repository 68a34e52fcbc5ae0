"""The markers of a JPEG stream, which stands alone as a file or inside the tiles of a TIFF.

Source: ITU-T T.81, table B.1.
"""

from __future__ import annotations

import struct

START_OF_IMAGE = 0xD8
END_OF_IMAGE = 0xD9
START_OF_SCAN = 0xDA
QUANTISATION = 0xDB
APP1 = 0xE1
APP2 = 0xE2
PROGRESSIVE = 0xC2
FRAMES = {0xC0, 0xC1, PROGRESSIVE}
"""Start-of-frame markers of supported kinds: C0 baseline, C1 extended, C2 progressive."""
OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
"""Start-of-frame markers of lossless, hierarchical and arithmetic JPEGs."""
BARE = {0x00, 0x01, START_OF_IMAGE, *range(0xD0, 0xD8)}
"""Markers without a length: fill, TEM, restart markers, start of image."""


def frame_size(stream: bytes) -> tuple[int, int] | None:
    """Return (height, width) that the first frame header declares, px; None where there is none."""
    position = 2
    while 0 <= position <= len(stream) - 9:
        marker = stream[position + 1]
        if stream[position] != 0xFF or marker == 0xFF:
            position += 1
        elif marker in BARE:
            position += 2
        elif marker in FRAMES | OTHER_FRAMES:
            height, width = struct.unpack_from(">HH", stream, position + 5)
            return height, width
        else:
            (length,) = struct.unpack_from(">H", stream, position + 2)
            position += 2 + length
    return None
