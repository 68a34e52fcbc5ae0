"""Write a small image that is whole in memory to a PNG or TIFF file, atomically."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from storage import atomic_files
from storage.errors import FormatError

Pixels = NDArray[np.unsignedinteger]
SUFFIXES = (".png", ".tif", ".tiff")


def check_name(path: Path) -> None:
    """Raise FormatError unless the name ends as a format that can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise FormatError(
            f"{path}: cannot write {path.suffix or 'a name without suffix'}; "
            "name it .png, .tif or .tiff"
        )


def write_image(path: Path, pixels: Pixels) -> None:
    """Write (C, H, W) uint8 or uint16 pixels; the file appears whole or not at all."""
    check_name(path)
    rows = np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    if path.suffix.lower() == ".png":
        if len(pixels) not in (1, 3):
            raise FormatError(f"{path}: a PNG of {len(pixels)} bands; name it .tif")
        atomic_files.replace(path, [memoryview(imagecodecs.png_encode(rows))], fsync=False)
        return

    import tifffile

    photometric = "rgb" if len(pixels) == 3 else "minisblack"
    planar = {"planarconfig": "contig"} if len(pixels) > 1 else {}
    with atomic_files.atomic_output(path, overwrite=True) as temporary:
        tifffile.imwrite(
            temporary,
            rows,
            photometric=photometric,
            tile=(256, 256),
            compression="zlib",
            **planar,
        )
