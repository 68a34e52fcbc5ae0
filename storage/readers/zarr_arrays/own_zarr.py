"""Read the zarr arrays that this package writes: staged inputs and levels of published images."""

from __future__ import annotations

import base64
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from storage.box import Box
from storage.coding import Coding
from storage.errors import DamagedError, FormatError, one_line
from storage.geo import Georeference
from storage.image import ITEMSIZE, UNNAMED, ImageInfo, check_inside
from storage.image_metadata import VALIDITY
from storage.validity import both, by_value
from storage.zarr_format import ome_metadata, zarr_json
from storage.zarr_format.published_image import PublishedImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.image import Marks, Opacity, Pixels

STAGED = "gigarestore_staged"
"""Attribute under which a staged array keeps what its source file said."""
# Facts of a source that a staged copy keeps as they are; profile and georeference need a form of
# their own.
_KEPT = (
    "format",
    "layout",
    "bits",
    "limits",
    "names",
    "colour",
    "nodata",
    "mask",
    "valid_by",
    "alpha",
    "pixel_size",
    "levels",
    "axes",
    "notes",
)


def is_own(path: str) -> bool:
    """Tell whether this package wrote a local folder: its codecs are exactly ours.

    In those every chunk is stored, so that a missing one is damage; elsewhere it stands for the
    fill value.
    """
    folder = Path(path)
    if not (folder / zarr_json.ZARR_JSON).is_file():
        return False
    try:
        document = zarr_json.load(folder)
        if document.get("node_type") == "array":
            return STAGED in (document.get("attributes") or {})
        PublishedImage.open(folder)
    except FormatError:
        return False
    return True


def staged_facts(info: ImageInfo) -> dict[str, Any]:
    """Return what a staged copy keeps of its source, as JSON values.

    `inspect_zarr` reads it back.
    """
    facts = {name: getattr(info, name) for name in _KEPT}
    if info.nodata is not None and math.isnan(info.nodata):
        facts["nodata"] = "NaN"
    facts["icc"] = base64.b64encode(info.icc).decode("ascii") if info.icc else None
    facts["geo"] = info.geo.as_dict() if info.geo else None
    facts["coding"] = info.coding.as_dict() if info.coding else None
    return facts


def inspect_zarr(path: str, level: int = 0) -> ImageInfo:
    """Describe a staged array, or one level of a published image (0 is the finest).

    Raises FormatError for other zarr folders, and for a level that does not exist.
    """
    return _locate(path, level)[1]


def _locate(path: str, level: int) -> tuple[Path, ImageInfo]:
    """Return the folder of the array and its description."""
    folder = Path(path)
    document = zarr_json.load(folder)
    if document.get("node_type") == "group":
        return _locate_level(path, folder, document, level)
    staged = (document.get("attributes") or {}).get(STAGED)
    if staged is None:
        raise FormatError(
            f"{path}: a zarr array of unknown axes; "
            "give an image file or a published OME-Zarr image"
        )
    return folder, _info(path, "staged", document, **_facts(staged))


def _locate_level(
    path: str,
    folder: Path,
    document: dict[str, Any],
    level: int,
) -> tuple[Path, ImageInfo]:
    """Return the folder of a published level and its description."""
    names, metadata = ome_metadata.describe(path, document)
    coarsest = len(names) - 1
    if not 0 <= level <= coarsest:
        raise FormatError(f"{path}: no level {level}; the pyramid has levels 0..{coarsest}")
    array_folder = folder / names[level]
    array = zarr_json.load(array_folder)
    coarser = 2**level
    size = metadata.pixel_size
    geo = metadata.geo
    info = _info(
        path,
        "OME-Zarr",
        array,
        icc=metadata.icc,
        names=metadata.names,
        colour=array.get("shape", [0])[0] == 3 and metadata.names in UNNAMED,
        nodata=metadata.nodata,
        mask=metadata.mask,
        valid_by="published validity" if metadata.mask else "",
        pixel_size=(size[0] * coarser, size[1] * coarser) if size else None,
        geo=geo.scaled(1 / coarser) if geo else None,
    )
    return array_folder, info


def _facts(staged: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a description from what `staged_facts` wrote."""
    nodata = staged.get("nodata")
    geo = staged.get("geo")
    coding = staged.get("coding")
    return {
        "bits": staged["bits"],
        "limits": _pair(staged.get("limits")),
        "names": tuple(staged.get("names") or ()),
        "colour": bool(staged.get("colour")),
        "nodata": None if nodata is None else float(nodata),
        "mask": staged.get("mask") or "",
        "valid_by": staged.get("valid_by") or "",
        "alpha": staged.get("alpha") or "",
        "pixel_size": _pair(staged.get("pixel_size")),
        "levels": tuple((height, width) for height, width in staged.get("levels") or ()),
        "axes": tuple((axis, length) for axis, length in staged.get("axes") or ()),
        "notes": tuple(staged.get("notes") or ()),
        "icc": base64.b64decode(staged["icc"]) if staged.get("icc") else None,
        "geo": Georeference.from_dict(geo) if geo else None,
        "coding": Coding.from_dict(coding) if coding else None,
    }


def _pair(values: Any) -> tuple[float, float] | None:
    return None if values is None else (float(values[0]), float(values[1]))


def _info(path: str, kind: Any, array: dict[str, Any], **known: Any) -> ImageInfo:
    """Return the description of an array. known: what else is known of it."""
    try:
        channels, height, width = array["shape"]
        dtype = array["data_type"]
        bits = 8 * ITEMSIZE[dtype]
        inner_chunk = (array["codecs"][0].get("configuration") or {}).get("chunk_shape")
        # Without shards the stored object is the chunk.
        chunk = inner_chunk or array["chunk_grid"]["configuration"]["chunk_shape"]
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise FormatError(
            f"{path}: not a (C, H, W) array of {', '.join(ITEMSIZE)} ({one_line(error)}); "
            "write it again"
        ) from None
    largest = float((1 << bits) - 1)
    facts = {
        "bits": bits,
        "limits": (0.0, largest) if dtype.startswith("uint") else None,
        **known,
    }
    return ImageInfo(
        path=path,
        format=kind,
        height=height,
        width=width,
        channels=channels,
        dtype=dtype,
        lazy=True,
        why_staged="",
        layout="zarr chunks",
        grain=(int(chunk[-2]), int(chunk[-1])),
        **facts,
    )


class ZarrReader:
    """Read windows of a staged array or a published level; nothing is kept between reads."""

    def __init__(self, path: str, level: int = 0) -> None:
        folder, self.info = _locate(path, level)
        self._folder = folder
        self._array = zarr.open_array(
            store=str(folder),
            mode="r",
            zarr_format=3,
        )
        self._marks = _Marks(path, level, self.info) if self.info.mask else None

    def read_valid(self, box: Box) -> tuple[Pixels, Marks | None]:
        """Return pixels and which of them are valid; see `Reader.read_valid`."""
        pixels = self.read(box)
        valid = by_value(pixels, self.info.nodata)
        return pixels, both(valid, None if self._marks is None else self._marks.read(box) != 0)

    def opacity(self, box: Box) -> Opacity | None:
        """Return what lies beside the pixels, (C, h, w); see `Reader.opacity`."""
        return None if self._marks is None else self._marks.read(box)

    def read(self, box: Box) -> Pixels:
        """Return (C, h, w) in the stored dtype; see `Reader.read`."""
        check_inside(self.info, box)
        return _window(self._folder, self._array, box)

    def close(self) -> None:
        """Do nothing: no file stays open."""


class _Marks:
    """What lies beside the pixels and says which of them are valid: samples that are not 0."""

    def __init__(self, path: str, level: int, info: ImageInfo) -> None:
        beside = Path(path) / VALIDITY
        self._folder = beside if info.format == "staged" else _locate(str(beside), level)[0]
        self._array = zarr.open_array(store=str(self._folder), mode="r", zarr_format=3)
        if self._array.shape != info.shape:
            raise FormatError(
                f"{beside}: has the shape {self._array.shape}, its image {info.shape}; "
                "write it again"
            )

    def read(self, box: Box) -> Opacity:
        """Return (C, h, w)."""
        return _window(self._folder, self._array, box)


def _window(folder: Path, array: zarr.Array[Any], box: Box) -> NDArray[Any]:
    """Return (C, h, w) of an array in which every object must be there."""
    _require_objects(folder, array, box)
    rows, columns = box.slices()
    try:
        pixels = np.asarray(array[:, rows, columns])
    except Exception as error:  # codecs' own types, which all mean that the data is damaged
        raise DamagedError(
            f"{folder}: {box} cannot be decoded: {one_line(error)}; write it again"
        ) from error
    _require_objects(folder, array, box)  # again: one that went away in between was read as zeros
    return pixels


def _require_objects(folder: Path, array: zarr.Array[Any], box: Box) -> None:
    """Refuse absent objects, which zarr would read as zeros without a word."""
    depth, height, width = array.shards or array.chunks
    planes = range(-(-array.shape[0] // depth))
    rows = range(box.y0 // height, -(-box.y1 // height))
    columns = range(box.x0 // width, -(-box.x1 // width))
    for place in itertools.product(planes, rows, columns):
        file = folder / array.metadata.encode_chunk_key(place)
        if not file.is_file():
            raise DamagedError(f"{file}: missing from the array; write it again")
