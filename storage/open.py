"""Which reader opens what: decided by the first bytes of a file, never by its name."""

from __future__ import annotations

from pathlib import Path

from storage import jpeg, png
from storage.errors import FormatError
from storage.image import ImageInfo, Reader

# TIFF and BigTIFF, little and big endian.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Formats that people try, for a message that names what they have: (offset, bytes, name).
_KNOWN = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypavif", "AVIF"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"P5", "PGM"),
    (0, b"P6", "PPM"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"%PDF", "PDF"),
    (0, b"\x89HDF", "HDF5"),
)
_SUPPORTED = "supported: PNG, JPEG, TIFF, and images published by this program"


def inspect(path: Path | str, *, max_pixels: int | None = None) -> ImageInfo:
    """Describe an image from its header and tables, without decoding pixels.

    max_pixels: the largest size that the header of a PNG or JPEG may declare; default `storage.raster.MAX_PIXELS`.
    Raises FormatError, one line, for what does not exist, is damaged or is not supported.
    """
    path = str(path)
    kind = _kind(path)
    if kind == "zarr":
        from storage.zarr_image import inspect_zarr

        return inspect_zarr(path)
    if kind == "TIFF":
        from storage.tiff import inspect_tiff

        return inspect_tiff(path)
    from storage.raster import MAX_PIXELS, inspect_whole

    return inspect_whole(path, kind, max_pixels=MAX_PIXELS if max_pixels is None else max_pixels)


def open_image(path: Path | str, *, level: int = 0, max_bytes: int | None = None) -> Reader:
    """Open an image for reading by windows; `level` chooses from the pyramid of a published image.

    A PNG or JPEG is decoded whole at the first read: stage it first when several processes read it.
    max_bytes: the largest size of its decoded pixels; default `storage.raster.MAX_WHOLE_BYTES`.
    Raises FormatError as `inspect` does.
    """
    path = str(path)
    kind = _kind(path)
    if kind == "zarr":
        from storage.zarr_image import ZarrReader

        return ZarrReader(path, level)
    if kind == "TIFF":
        from storage.tiff_reader import open_tiff

        return open_tiff(path)
    from storage.raster import MAX_WHOLE_BYTES, WholeReader

    return WholeReader(inspect(path), max_bytes=MAX_WHOLE_BYTES if max_bytes is None else max_bytes)


def _kind(path: str) -> str:
    """Return 'PNG', 'JPEG', 'TIFF' or 'zarr'."""
    try:
        if Path(path).is_dir():
            return "zarr"
        with open(path, "rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error
    if not head:
        raise FormatError(f"{path}: the file is empty; get it again from its source")
    if head.startswith(png.SIGNATURE):
        return "PNG"
    if head.startswith(jpeg.SIGNATURE):
        return "JPEG"
    if head.startswith(_TIFF):
        return "TIFF"
    for offset, magic, name in _KNOWN:
        if head[offset:].startswith(magic):
            raise FormatError(f"{path}: a {name} file; {_SUPPORTED}; convert it: magick in out.png")
    raise FormatError(f"{path}: not an image that is known here (it starts with {head[:8].hex(' ')}); {_SUPPORTED}")
