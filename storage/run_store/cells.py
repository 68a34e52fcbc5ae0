"""The working array of a run: float32 pixels in cells that are written once.

A cell is whole, checksummed and finite. A zarr v3 array (C, H, W), one chunk (C, cell, cell) per
stored object, codecs bytes + crc32c, fill value NaN, no shards. Every cell has one owner tile, so
no object ever has two writers on purpose; when two attempts of a tile race, the first one wins, by
link(2).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import google_crc32c
import numpy as np

from storage import atomic_files
from storage.box import Box
from storage.errors import CorruptCell, FormatError, MissingCells
from storage.zarr_format import zarr_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)
_CRC_BYTES = 4
_SAMPLE_BYTES = 4
# First pause while waiting for a cell that another machine has just written, s; it doubles.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
# Cells of one tile that are flushed at the same time.
_FLUSHES = 8
# How many cell names an error lists.
_NAMED = 4


class Cells:
    """Read and write cells; safe to use from several threads and processes at once.

    With `fsync` (the default) the bytes of a cell are on the disk before its name exists, so that a
    power cut cannot leave a name with wrong bytes. It costs one flush per tile, 1 to 7 ms on an
    SSD; a name that is lost all the same is found when resume looks for the cells of journaled
    tiles.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        shape: tuple[int, int, int],
        cell: int,
        fsync: bool = True,
    ) -> None:
        self.path = Path(path)
        self.channels, self.height, self.width = shape
        self.cell = cell
        self.box = Box(0, 0, self.height, self.width)
        self._fsync = fsync
        self._scratch = self.path / "tmp"

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        channels: int,
        height: int,
        width: int,
        cell: int,
        fsync: bool = True,
    ) -> Self:
        """Create an empty array.

        Raises FormatError when the path exists and ValueError for sizes below 1.
        """
        if min(channels, height, width, cell) < 1:
            sizes = (channels, height, width, cell)
            raise ValueError(f"cells need sizes of at least 1, got {sizes} (C, H, W, cell)")
        cells = cls(
            path,
            shape=(channels, height, width),
            cell=cell,
            fsync=fsync,
        )
        cells.path.mkdir(parents=True, exist_ok=True)
        cells._scratch.mkdir(exist_ok=True)
        for row in range(-(-height // cell)):
            first_cell = cells._file(row, 0)
            first_cell.parent.mkdir(parents=True, exist_ok=True)

        # Last: a killed creation leaves no array.
        document = zarr_json.dump(_metadata(cells))
        file = cells.path / zarr_json.ZARR_JSON
        if not atomic_files.write_once(file, [document], fsync=fsync, scratch=cells._scratch):
            raise FormatError(
                f"{path}: exists already; open it to resume, or remove the run's folder"
            )
        if fsync:
            for folder in (cells.path / "c" / "0", cells.path / "c", cells.path, cells.path.parent):
                atomic_files.fsync_folder(folder)
        return cells

    @classmethod
    def open(cls, path: Path | str, *, fsync: bool = True) -> Self:
        """Open an existing array; raises FormatError naming the field that does not fit."""
        document = zarr_json.load(Path(path))
        try:
            shape = document["shape"]
            chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
            cells = cls(
                path,
                shape=tuple(shape),
                cell=int(chunk[-1]),
                fsync=fsync,
            )
        except (KeyError, TypeError, ValueError, IndexError):
            raise FormatError(
                f"{path}: not the working array of a run (no shape or chunk grid)"
            ) from None
        for key, value in _metadata(cells).items():
            if key != "attributes" and document.get(key) != value:
                raise FormatError(
                    f"{path}: {key} is {document.get(key)!r}, a working array has {value!r}; "
                    "remove the run"
                )
        return cells

    def write(self, box: Box, array: NDArray[np.float32]) -> bool:
        """Write whole cells; return False when any of them was there already.

        That one is kept and the new one dropped. box: aligned to cells, except at the image's far
        edges. array: (C, h, w) float32, finite; zeros are values. Raises ValueError for a
        misaligned box, another shape or dtype, or values that are not finite.
        """
        self._check_box(box)
        self._check_array(box, array)

        def write_cell(cell: tuple[int, int, Box]) -> bool:
            row, col, place = cell
            rows, cols = place.shift(-box.y0, -box.x0).slices()
            stored = self._chunk(array[:, rows, cols])
            return self._write_cell(row, col, stored)

        cells = list(self._cells(box))
        if len(cells) == 1 or not self._fsync:
            fresh = [write_cell(cell) for cell in cells]
        else:  # flushes at the same time share their cost
            with ThreadPoolExecutor(min(_FLUSHES, len(cells))) as pool:
                fresh = list(pool.map(write_cell, cells))
        return all(fresh)

    def read(self, box: Box, *, patience: float = 0.0) -> NDArray[np.float32]:
        """Return (C, h, w) float32 of any box, verified.

        patience: seconds to wait for absent cells; a shared file system may show a file of another
        machine late. Raises MissingCells naming cells that are absent, CorruptCell where the
        checksum or a NaN shows damage.
        """
        if box.empty or not self.box.contains(box):
            raise ValueError(
                f"{self.path}: {box} is not inside an image of {self.height} x {self.width} px "
                "(H x W)"
            )
        out = np.empty((self.channels, *box.shape), np.float32)
        missing = []
        deadline = time.monotonic() + patience
        for row, col, place in self._cells(box):
            chunk = self._load(row, col, deadline)
            if chunk is None:
                missing.append((row, col))
                continue
            part = place.intersect(box)
            in_cell = part.shift(-row * self.cell, -col * self.cell).slices()
            in_window = part.shift(-box.y0, -box.x0).slices()
            out[(slice(None), *in_window)] = chunk[(slice(None), *in_cell)]
        if missing:
            raise self._missing(missing)
        if not np.isfinite(out).all():
            raise CorruptCell(
                f"{self.path}: NaN or infinity in the cells of {box}; remove them and run resume"
            )
        return out

    def exists(self, box: Box) -> bool:
        """Tell whether every cell that `box` touches has been written; reads no pixels."""
        return all(self._file(row, col).exists() for row, col, _ in self._cells(box))

    def delete(self, box: Box) -> None:
        """Delete every cell that `box` touches, absent ones too.

        Only for cells that nobody will read again.
        """
        for row, col, _ in self._cells(box):
            self._file(row, col).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Delete what killed writers left; return how many.

        Only the driver may call it, before workers start.
        """
        stale = list(self._scratch.iterdir())
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def remove(self) -> None:
        """Delete the whole array.

        Its metadata goes first, so that a killed removal leaves no array.
        """
        (self.path / zarr_json.ZARR_JSON).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=False)

    def _cells(self, box: Box) -> Iterator[tuple[int, int, Box]]:
        """Yield (row, column, place clipped to the image) of every cell that the box touches."""
        for row in range(box.y0 // self.cell, -(-box.y1 // self.cell)):
            for col in range(box.x0 // self.cell, -(-box.x1 // self.cell)):
                whole_cell = Box(row, col, row + 1, col + 1).scale(self.cell)
                yield row, col, whole_cell.clip(self.height, self.width)

    def _file(self, row: int, col: int) -> Path:
        return self.path / zarr_json.object_key(row, col)

    def _chunk(self, block: NDArray[np.float32]) -> list[bytes | memoryview]:
        """Return the stored bytes of a cell; beyond the image's edge a cell is filled with NaN."""
        _, height, width = block.shape
        if (height, width) != (self.cell, self.cell):
            padded = np.full((self.channels, self.cell, self.cell), np.nan, "<f4")
            padded[:, :height, :width] = block
            block = padded
        data = np.ascontiguousarray(block, "<f4").tobytes()
        checksum = google_crc32c.value(data).to_bytes(_CRC_BYTES, "little")
        return [data, checksum]

    def _write_cell(
        self,
        row: int,
        col: int,
        data: list[bytes | memoryview],
    ) -> bool:
        path = self._file(row, col)
        # Not `replace`: two attempts of a tile may race, a dead worker's late one among them, and
        # neighbours may have read the first already. By link(2) the first one stays.
        if atomic_files.write_once(path, data, fsync=self._fsync, scratch=self._scratch):
            return True
        try:
            self._verified(path.read_bytes(), path)
        except CorruptCell:  # a power cut without fsync: the name survived, the bytes did not
            _log.warning("%s failed its checksum and was written again", path)
            atomic_files.replace(path, data, fsync=self._fsync, scratch=self._scratch)
            return True
        return False

    def _load(
        self,
        row: int,
        col: int,
        deadline: float,
    ) -> NDArray[np.float32] | None:
        path = self._file(row, col)
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._verified(path.read_bytes(), path)
            except FileNotFoundError:
                if time.monotonic() >= deadline:
                    return None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _verified(self, data: bytes, path: Path) -> NDArray[np.float32]:
        """Return (C, cell, cell) from the stored bytes.

        Raises CorruptCell when length or checksum are wrong.
        """
        count = self.channels * self.cell * self.cell
        expected_bytes = count * _SAMPLE_BYTES + _CRC_BYTES
        if len(data) != expected_bytes:
            raise CorruptCell(
                f"{path}: {len(data)} bytes where a cell has {expected_bytes}; "
                "remove the file and run resume"
            )
        values = np.frombuffer(data, "<f4", count)
        checksum = int.from_bytes(data[-_CRC_BYTES:], "little")
        if google_crc32c.value(values) != checksum:
            raise CorruptCell(
                f"{path}: the cell fails its crc32c checksum; remove the file and run resume"
            )
        return values.reshape(self.channels, self.cell, self.cell)

    def _check_box(self, box: Box) -> None:
        """Raise ValueError unless a box is made of whole cells."""
        inside = not box.empty and self.box.contains(box)
        starts = box.y0 % self.cell == 0 and box.x0 % self.cell == 0
        last_row_ends = box.y1 % self.cell == 0 or box.y1 == self.height
        last_column_ends = box.x1 % self.cell == 0 or box.x1 == self.width
        if not (inside and starts and last_row_ends and last_column_ends):
            raise ValueError(
                f"{self.path}: {box} is not made of whole {self.cell} px cells of an image of "
                f"{self.height} x {self.width} px; write the tile's owned box"
            )

    def _check_array(self, box: Box, array: NDArray[np.float32]) -> None:
        """Raise ValueError unless an array holds the values of a box."""
        expected = (self.channels, *box.shape)
        if array.shape != expected or array.dtype != np.float32:
            raise ValueError(
                f"{self.path}: {box} needs {expected} float32, got {array.shape} {array.dtype}"
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"{self.path}: NaN or infinity for {box}; "
                "a tile's result must be finite before writing"
            )

    def _missing(self, cells: list[tuple[int, int]]) -> MissingCells:
        names = ", ".join(f"({row}, {col})" for row, col in cells[:_NAMED])
        if len(cells) > _NAMED:
            names += ", ..."
        return MissingCells(
            f"{self.path}: {len(cells)} cells were never written, (row, column): {names}; "
            "run resume"
        )


def _metadata(cells: Cells) -> dict[str, Any]:
    return zarr_json.array_metadata(
        shape=(cells.channels, cells.height, cells.width),
        dtype="float32",
        chunk=(cells.channels, cells.cell, cells.cell),
        codecs=[zarr_json.bytes_codec("float32"), zarr_json.CRC32C],
        fill="NaN",
    )
