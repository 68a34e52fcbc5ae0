"""What a header may declare and a decoder may take before it is refused; all finite, all named in
their messages.
"""

from __future__ import annotations

MAX_PIXELS = 1 << 40
"""Default limit on the size of an image that is read by windows, px: a million by a million."""
MAX_WHOLE_PIXELS = 1 << 31
"""Default limit on the size that the header of a PNG or JPEG may declare, px: a larger one is a
mistake or an attack.
"""
MAX_WHOLE_BYTES = 384 << 20
"""Memory that staging may take for pixels, bytes, unless --max-pixels allows the image: with the
rest of the process it stays below 512 MiB. A progressive JPEG of about 115 megapixels or one
compressed strip of about 60 still fit (RGB)."""
MAX_SEGMENT_BYTES = 256 << 20
"""Largest tile, strip or chunk that is decoded for a window, bytes; files with larger ones are
staged or refused.
"""
