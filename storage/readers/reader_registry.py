"""Which reader opens what: decided by the content of a file, never by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from storage.byte_source import ByteSource, is_url, redact
from storage.errors import FormatError
from storage.image import EVERYTHING, ImageInfo, Reader, Selection
from storage.limits import MAX_PIXELS, MAX_WHOLE_PIXELS
from storage.readers.raster import jpeg, jpeg2000, png

Kind = Literal["PNG", "JPEG", "JPEG 2000", "PNM", "TIFF", "zarr", "own zarr", "slide"]
# TIFF and BigTIFF, little and big endian.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Formats that people try, for a message that names what they have: (offset, bytes, name).
_KNOWN = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypavif", "AVIF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"%PDF", "PDF"),
    (0, b"\x89HDF", "HDF5"),
)
_SUPPORTED = (
    "supported: PNG, JPEG, JPEG 2000, PGM, PPM, TIFF (also slides, OME-TIFF, GeoTIFF), "
    "OME-Zarr and zarr arrays"
)
# What a URL ends in when it names the metadata of a zarr node instead of the node.
ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")


def inspect(
    path: Path | str,
    selection: Selection = EVERYTHING,
    *,
    max_pixels: int | None = None,
    level: int = 0,
) -> ImageInfo:
    """Describe an image from its header and tables, without decoding pixels.

    path: a local path, or an s3://, gs://, az:// or http(s):// URL. max_pixels: the largest size
    that a header may declare; default `storage.limits.MAX_PIXELS`, for PNG and JPEG
    `MAX_WHOLE_PIXELS`. Raises FormatError, one line, for what does not exist, is damaged, is not
    supported or needs a choice.
    """
    described, _ = _with_mask_file(str(path), selection, level, max_pixels)
    return described()


def open_image(
    path: Path | str,
    selection: Selection = EVERYTHING,
    *,
    level: int = 0,
    max_pixels: int | None = None,
) -> Reader:
    """Open an image for reading by windows; `level` chooses from the pyramid of an OME-Zarr image.

    A JPEG is decoded whole at the first read: stage it first when several processes read it.
    max_pixels: as for `inspect`; it also allows what takes more memory than
    `storage.limits.MAX_WHOLE_BYTES`. Raises FormatError as `inspect` does.
    """
    _, opened = _with_mask_file(str(path), selection, level, max_pixels)
    return opened()


def _with_mask_file(
    path: str,
    selection: Selection,
    level: int,
    max_pixels: int | None,
) -> tuple[Callable[[], ImageInfo], Callable[[], Reader]]:
    """Return what describes an image and what opens it, with the mask file beside it (GDAL)."""
    described, opened = _reading(path, selection, level, max_pixels)
    from storage.readers.mask_file import MaskedReader, describe_masked, mask_file

    beside = mask_file(path)
    if beside is None:
        return described, opened
    return (
        lambda: describe_masked(described(), beside),
        lambda: MaskedReader(opened(), beside, selection.channel),
    )


def _reading(
    path: str,
    selection: Selection,
    level: int,
    max_pixels: int | None,
) -> tuple[Callable[[], ImageInfo], Callable[[], Reader]]:
    """Return what describes an image, and what opens it.

    The one place that knows every format; a format's modules are imported when it is met.
    """
    kind = _kind(path)
    _check_complete(path, kind)
    limit = max_pixels or MAX_PIXELS
    described: Callable[[], ImageInfo]
    opened: Callable[[], Reader]
    if kind in ("TIFF", "slide") and _by_openslide(path, kind):
        from storage.readers.openslide import SlideReader, inspect_slide

        described = partial(inspect_slide, path, selection, max_pixels=limit)
        opened = partial(SlideReader, path, selection, max_pixels=limit)
    elif kind == "own zarr":
        from storage.readers.zarr_arrays.own_zarr import ZarrReader, inspect_zarr

        described = partial(inspect_zarr, path, level)
        opened = partial(ZarrReader, path, level)
    elif kind == "zarr":
        from storage.readers.zarr_arrays.any_zarr import AnyZarrReader, inspect_any

        described = partial(inspect_any, path, selection, level=level, max_pixels=limit)
        opened = partial(AnyZarrReader, path, selection, level=level, max_pixels=limit)
    elif kind == "TIFF":
        from storage.readers.tiff.describe import inspect_tiff
        from storage.readers.tiff.tiff_reader import open_tiff

        described = partial(inspect_tiff, path, selection, max_pixels=limit)
        opened = partial(open_tiff, path, selection, max_pixels=limit)
    else:
        from storage.readers.raster.raster_reader import inspect_whole, open_whole

        assert kind != "slide", "a slide is opened by OpenSlide or refused"
        header_limit = max_pixels or MAX_WHOLE_PIXELS
        described = partial(inspect_whole, path, kind, selection, max_pixels=header_limit)
        opened = partial(open_whole, path, kind, selection, max_pixels=max_pixels)
    return described, opened


def _check_complete(path: str, kind: Kind) -> None:
    """Raise FormatError for a container whose own TIFF structure holds an overview only."""
    if kind == "TIFF" and path.lower().endswith(".vsi"):
        folder = f"_{Path(path).stem}_"
        raise FormatError(
            f"{path} holds an overview only, its pixels lie in {folder}/stack*/frame_t.ets; "
            "convert it, for example bioformats2raw FILE.vsi FILE.zarr, and give that"
        )


def _by_openslide(path: str, kind: Kind) -> bool:
    """Tell whether OpenSlide is the reader.

    For slides that are no TIFF, or whose pages tifffile cannot join.
    """
    if kind == "slide":
        return True
    if is_url(path):
        return False
    from storage.readers.openslide import needs_openslide

    return needs_openslide(path)


def _kind(path: str) -> Kind:
    """Return what the content is."""
    if not is_url(path) and Path(path).is_dir():
        from storage.readers.zarr_arrays.own_zarr import is_own

        return "own zarr" if is_own(path) else "zarr"
    if is_url(path) and _is_remote_zarr(path):
        return "zarr"
    with ByteSource(path) as source:
        name = source.name
        head = source.read(0, 16)
    if not head:
        raise FormatError(f"{name}: the file is empty; get it again from its source")
    kind = _magic(head)
    if kind is not None:
        return _slide_beside(path, kind)
    from storage.readers.openslide import is_slide

    if not is_url(path) and is_slide(path):
        return "slide"
    for offset, magic, known in _KNOWN:
        if head[offset:].startswith(magic):
            raise FormatError(
                f"{name}: a {known} file; {_SUPPORTED}; convert it: magick in out.png"
            )
    start = head[:8].hex(" ")
    raise FormatError(
        f"{name}: not an image that is known here (it starts with {start}); {_SUPPORTED}"
    )


def _magic(head: bytes) -> Kind | None:
    """Return the kind that the first bytes of a file tell."""
    if head.startswith(png.SIGNATURE):
        return "PNG"
    if head.startswith(jpeg.SIGNATURE):
        return "JPEG"
    if head.startswith(_TIFF):
        return "TIFF"
    if head.startswith((jpeg2000.BOXES, jpeg2000.CODE_STREAM)):
        return "JPEG 2000"
    is_pnm = head[:2] in (b"P5", b"P6") and head[2:3].isspace()
    return "PNM" if is_pnm else None


def _slide_beside(path: str, kind: Kind) -> Kind:
    """Recognise a MIRAX slide.

    Its main file is a small JPEG beside a folder of the same name with the pixels.
    """
    if kind != "JPEG" or is_url(path):
        return kind
    beside = Path(path).with_suffix("") / "Slidedat.ini"
    return "slide" if beside.is_file() else kind


def _is_remote_zarr(path: str) -> bool:
    """Tell whether a URL names a zarr node: its metadata answers."""
    base = path.split("?")[0].rstrip("/")
    for name in ZARR_FILES:
        if base.endswith("/" + name):
            raise FormatError(
                f"{redact(path)}: the metadata of a zarr image; give the address of its folder"
            )
    for name in ZARR_FILES:
        try:
            with ByteSource(f"{base}/{name}") as source:
                source.read(0, 1)
        except FormatError as error:
            if "no such object" not in str(error):
                raise
        else:
            return True
    return False
