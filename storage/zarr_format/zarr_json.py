"""The zarr v3 metadata of every array that this package writes.

Chunk bytes are written by hand where zarr-python cannot give what a run needs (exclusive creation,
one atomic file per shard, nothing skipped because it is all zero); zarr-python reads all of it,
which the tests check. Source: Zarr core specification 3.0, sharding-indexed codec 1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.errors import FormatError

ZARR_JSON = "zarr.json"
AXES = ("c", "y", "x")
CRC32C = {"name": "crc32c"}
ZSTD_LEVEL = 1
"""Higher levels gain a few percent on photographs and cost several times the CPU."""
FAST_LEVEL = -10
"""Of a copy that does not stay.

Repetitions are still found, but samples that do not repeat are kept as they are: they decode
several times as fast.
"""


def zstd_codec(level: int = ZSTD_LEVEL) -> dict[str, Any]:
    """Return the codec that compresses.

    Its checksum makes a flipped bit an error in every zarr implementation.
    """
    configuration = {"level": level, "checksum": True}
    return {"name": "zstd", "configuration": configuration}


def bytes_codec(dtype: str) -> dict[str, Any]:
    """Return the codec that turns samples into bytes, little endian."""
    codec: dict[str, Any] = {"name": "bytes"}
    if dtype != "uint8":
        codec["configuration"] = {"endian": "little"}
    return codec


def sharding_codec(dtype: str, chunk: Sequence[int]) -> dict[str, Any]:
    """Return the codec of a shard of zstd chunks with its index at the end."""
    return {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(chunk),
            "codecs": [bytes_codec(dtype), zstd_codec()],
            "index_codecs": [bytes_codec("uint64"), CRC32C],
            "index_location": "end",
        },
    }


def array_metadata(
    *,
    shape: Sequence[int],
    dtype: str,
    chunk: Sequence[int],
    codecs: Sequence[Mapping[str, Any]],
    fill: str | int = 0,
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the metadata document of an array with axes c, y, x; `chunk` is the stored object."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": list(codecs),
        "attributes": dict(attributes or {}),
        "dimension_names": list(AXES),
        "storage_transformers": [],
    }


def dump(document: Mapping[str, Any]) -> bytes:
    """Return a document as the bytes of a zarr.json; the same one gives the same bytes."""
    text = json.dumps(
        document,
        indent=2,
        ensure_ascii=False,
        allow_nan=False,
    )
    return text.encode() + b"\n"


def load(folder: Path) -> dict[str, Any]:
    """Read the zarr.json of a folder.

    Raises FormatError when it is absent or not a zarr v3 document.
    """
    try:
        document = json.loads((folder / ZARR_JSON).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        old = any((folder / name).exists() for name in (".zgroup", ".zarray"))
        kind = "a folder in zarr v2 format" if old else f"a folder without {ZARR_JSON}"
        raise FormatError(
            f"{folder}: {kind}; give an image file or an image published by this program"
        ) from None
    except ValueError as error:
        raise FormatError(
            f"{folder / ZARR_JSON}: not readable as JSON ({error}); the store is damaged"
        ) from error
    if not isinstance(document, dict) or document.get("zarr_format") != 3:
        raise FormatError(f"{folder / ZARR_JSON}: not a zarr v3 document; supported: zarr v3")
    return document


def object_key(row: int, col: int) -> str:
    """Return the key of the stored object (0, row, col), which holds all channels."""
    return f"c/0/{row}/{col}"
