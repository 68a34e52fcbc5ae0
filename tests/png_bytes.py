"""PNGs put together by hand, for kinds that no encoder writes."""

import struct
import zlib


def png_chunk(name, payload):
    """Return length, name, payload and checksum."""
    named = name + payload
    return struct.pack(">I", len(payload)) + named + struct.pack(">I", zlib.crc32(named))


def png_bytes(height, width, bits, colour, stream, *, interlace=0, extra=b""):
    """Return a PNG of one IDAT. stream: the compressed rows; extra: chunks before it."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    chunks = [png_chunk(b"IHDR", header), extra, png_chunk(b"IDAT", stream)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")
