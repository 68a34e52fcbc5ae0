"""What a header may declare and a decoder may take before it is refused.

All limits are finite, and named in the messages of what they refuse.
"""

from __future__ import annotations

MAX_PIXELS = 1 << 40
"""Default limit on an image that is read by windows, px: a million by a million."""
MAX_WHOLE_PIXELS = 1 << 31
"""Default limit on what the header of a PNG or JPEG may declare, px.

A larger one is a mistake or an attack.
"""
MAX_WHOLE_BYTES = 384 << 20
"""Memory that staging may take for pixels, bytes, unless --max-pixels allows the image.

With the rest of the process it stays below 512 MiB. A progressive JPEG of about 115 megapixels or
one compressed strip of about 60 still fit (RGB).
"""
MAX_SEGMENT_BYTES = 256 << 20
"""Largest tile, strip or chunk that is decoded for a window, bytes.

Files with larger ones are staged or refused.
"""
