"""Cells: written once, whole, checksummed and finite; and still a plain zarr array."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.box import Box
from storage.errors import CorruptCell, FormatError, MissingCells
from storage.run_store.cells import Cells
from tests.places import ROOT


def noise(channels, height, width, seed=0):
    return np.random.default_rng(seed).standard_normal((channels, height, width)).astype(np.float32)


def cell_boxes(cells):
    for y in range(0, cells.height, cells.cell):
        for x in range(0, cells.width, cells.cell):
            yield Box(y, x, y + cells.cell, x + cells.cell).clip(cells.height, cells.width)


def filled(path, image, cell=8, **options):
    channels, height, width = image.shape
    cells = Cells.create(path, channels=channels, height=height, width=width, cell=cell, **options)
    for box in cell_boxes(cells):
        assert cells.write(box, image[(slice(None), *box.slices())])
    return cells


def test_zarr_python_reads_what_was_written(tmp_path):
    image = noise(3, 29, 21)
    filled(tmp_path / "cells", image)
    array = zarr.open_array(tmp_path / "cells", mode="r")
    assert np.array_equal(array[:], image)
    assert (array.chunks, array.shards, array.dtype) == ((3, 8, 8), None, np.float32)
    assert np.isnan(array.fill_value)
    assert [type(codec).__name__ for codec in array.compressors] == ["Crc32cCodec"]


def test_what_zarr_python_writes_is_read(tmp_path):
    image = noise(2, 20, 12)
    cells = Cells.create(tmp_path / "cells", channels=2, height=20, width=12, cell=8)
    zarr.open_array(tmp_path / "cells", mode="r+")[:] = image
    assert np.array_equal(cells.read(cells.box), image)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_box_reads_back_exactly(tmp_path_factory, data):
    channels, height, width, cell = (data.draw(st.integers(1, n)) for n in (4, 30, 30, 9))
    image = noise(channels, height, width, seed=data.draw(st.integers(0, 9)))
    cells = filled(tmp_path_factory.mktemp("any") / "cells", image, cell, fsync=False)
    y0 = data.draw(st.integers(0, height - 1))
    x0 = data.draw(st.integers(0, width - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
    assert np.array_equal(Cells.open(cells.path).read(box), image[(slice(None), *box.slices())])


def test_a_tile_of_several_cells_is_written_at_once(tmp_path):
    image = noise(3, 20, 20)
    cells = Cells.create(tmp_path / "cells", channels=3, height=20, width=20, cell=8)
    assert cells.write(cells.box, image)
    assert np.array_equal(cells.read(cells.box), image)
    assert sum(path.is_file() for path in (cells.path / "c").rglob("*")) == 9


def test_the_first_write_wins(tmp_path):
    cells = Cells.create(tmp_path / "cells", channels=1, height=8, width=16, cell=8)
    first = noise(1, 8, 8, 1)
    late = noise(1, 8, 16, 2)
    assert cells.write(Box(0, 0, 8, 8), first)
    assert not cells.write(cells.box, late)  # one of its two cells was taken, the other is new
    assert np.array_equal(cells.read(Box(0, 0, 8, 8)), first)
    assert np.array_equal(cells.read(Box(0, 8, 8, 16)), late[:, :, 8:])
    assert not list((cells.path / "tmp").iterdir())


def test_an_all_zero_cell_counts_as_written(tmp_path):
    cells = Cells.create(tmp_path / "cells", channels=3, height=8, width=8, cell=8)
    assert not cells.exists(cells.box)
    cells.write(cells.box, np.zeros((3, 8, 8), np.float32))
    assert cells.exists(cells.box)
    assert not cells.read(cells.box).any()


def test_missing_cells_are_named(tmp_path):
    cells = Cells.create(tmp_path / "cells", channels=1, height=24, width=24, cell=8)
    cells.write(Box(8, 8, 16, 16), noise(1, 8, 8))
    with pytest.raises(
        MissingCells,
        match=r"3 cells were never written, \(row, column\): \(0, 0\), \(0, 1\), \(1, 0\);",
    ):
        cells.read(Box(4, 4, 12, 12))
    with pytest.raises(MissingCells, match=r"8 cells .* \(0, 2\), \(1, 0\), \.\.\.;"):
        cells.read(cells.box)
    assert cells.exists(Box(9, 9, 10, 10))
    assert not cells.exists(Box(7, 8, 10, 10))


def test_a_patient_reader_sees_a_cell_that_appears_late(tmp_path):
    cells = Cells.create(tmp_path / "cells", channels=1, height=8, width=8, cell=8)
    code = (
        "import sys, time, numpy as np; from storage.run_store.cells import Cells; "
        "cells = Cells.open(sys.argv[1]); "
        "time.sleep(0.2); cells.write(cells.box, np.ones((1, 8, 8), np.float32))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(cells.path)], cwd=ROOT):
        assert cells.read(cells.box, patience=30).all()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_cell_is_an_error_and_is_replaced_by_the_next_write(tmp_path, damage, caplog):
    image = noise(1, 8, 8)
    cells = filled(tmp_path / "cells", image)
    path = cells.path / "c/0/0/0"
    data = bytearray(path.read_bytes())
    data[17] ^= 4
    path.write_bytes({"flip": data, "cut": data[:-30], "empty": b""}[damage])
    with pytest.raises(CorruptCell, match=r"c/0/0/0: .*run resume"):
        cells.read(cells.box)
    assert cells.write(cells.box, image)
    assert "failed its checksum" in caplog.text
    assert np.array_equal(cells.read(cells.box), image)


def test_a_nan_that_another_program_stored_is_refused(tmp_path):
    cells = filled(tmp_path / "cells", noise(1, 8, 8))
    zarr.open_array(cells.path, mode="r+")[0, 3, 3] = np.nan
    with pytest.raises(CorruptCell, match="NaN or infinity"):
        cells.read(cells.box)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    cells = Cells.create(tmp_path / "cells", channels=1, height=8, width=8, cell=8)
    array = noise(1, 8, 8)
    array[0, 7, 7] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        cells.write(cells.box, array)
    assert not cells.exists(cells.box)


@pytest.mark.parametrize(
    "box",
    [Box(0, 0, 4, 8), Box(4, 0, 12, 8), Box(0, 0, 8, 20), Box(16, 16, 20, 18), Box(0, 0, 0, 0)],
)
def test_boxes_that_are_not_whole_cells_are_refused(tmp_path, box):
    cells = Cells.create(tmp_path / "cells", channels=1, height=20, width=19, cell=8)
    with pytest.raises(ValueError, match="not made of whole 8 px cells"):
        cells.write(box, np.zeros((1, *box.shape), np.float32))


def test_a_wrong_shape_or_dtype_is_refused(tmp_path):
    cells = Cells.create(tmp_path / "cells", channels=3, height=8, width=8, cell=8)
    for array in [np.zeros((1, 8, 8), np.float32), np.zeros((3, 8, 8), np.float64)]:
        with pytest.raises(ValueError, match=r"needs \(3, 8, 8\) float32"):
            cells.write(cells.box, array)


def test_reading_outside_the_image_is_refused(tmp_path):
    cells = filled(tmp_path / "cells", noise(1, 8, 8))
    with pytest.raises(ValueError, match="not inside an image of 8 x 8 px"):
        cells.read(Box(0, 0, 8, 9))


def test_an_array_is_never_created_over_another(tmp_path):
    filled(tmp_path / "cells", noise(1, 8, 8))
    with pytest.raises(FormatError, match="exists already"):
        Cells.create(tmp_path / "cells", channels=1, height=8, width=8, cell=8)


def test_a_creation_that_was_killed_can_be_repeated(tmp_path):
    image = noise(1, 20, 8)
    shutil.rmtree(filled(tmp_path / "cells", image).path / "c")
    (tmp_path / "cells/c/0/0").mkdir(parents=True)
    (tmp_path / "cells/zarr.json").unlink()
    with pytest.raises(FormatError, match=r"without zarr\.json"):
        Cells.open(tmp_path / "cells")
    filled(tmp_path / "cells", image)


def test_remove_deletes_everything(tmp_path):
    filled(tmp_path / "cells", noise(1, 8, 8)).remove()
    assert not list(tmp_path.iterdir())
    with pytest.raises(FormatError, match=r"without zarr\.json"):
        Cells.open(tmp_path / "cells")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fill_value", 0.0),
        ("data_type", "float64"),
        ("codecs", [{"name": "bytes"}]),
        ("zarr_format", 2),
        ("shape", 7),
    ],
)
def test_an_array_of_another_kind_is_not_opened(tmp_path, key, value):
    cells = filled(tmp_path / "cells", noise(1, 8, 8))
    path = cells.path / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(FormatError, match="cells"):
        Cells.open(cells.path)


WRITER = """
import sys, numpy as np
from storage.box import Box
from storage.run_store.cells import Cells
cells = Cells.open(sys.argv[1])
for n in range(64):
    y, x = 64 * (n // 8), 64 * (n % 8)
    cells.write(Box(y, x, y + 64, x + 64), np.full((3, 64, 64), n + 1, np.float32))
    print(n, flush=True)
"""


@pytest.mark.slow
def test_kill_9_leaves_whole_cells_or_none(tmp_path):
    cells = Cells.create(tmp_path / "cells", channels=3, height=512, width=512, cell=64)
    for attempt in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(cells.path)], cwd=ROOT, stdout=subprocess.PIPE
        ) as run:
            for _ in range(9 * attempt + 1):
                run.stdout.readline()
            time.sleep(0.0007 * attempt)
            run.send_signal(signal.SIGKILL)
        written = [box for box in cell_boxes(cells) if cells.exists(box)]
        assert len(written) > 9 * attempt
        for box in written:
            assert (cells.read(box) == box.y0 // 8 + box.x0 // 64 + 1).all()
    assert len(written) < 64
    cells.sweep()
    assert not list((cells.path / "tmp").iterdir())
    subprocess.run(
        [sys.executable, "-c", WRITER, str(cells.path)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert cells.exists(cells.box)


RACER = """
import sys, numpy as np
from storage.box import Box
from storage.run_store.cells import Cells
cells, me = Cells.open(sys.argv[1], fsync=False), np.float32(sys.argv[2])
print(flush=True)
sys.stdin.readline()
for x in range(0, 800, 8):
    print(int(cells.write(Box(0, x, 8, x + 8), np.full((1, 8, 8), me, np.float32))))
"""


def test_of_two_racing_writers_exactly_one_wins_every_cell(tmp_path):
    cells = Cells.create(tmp_path / "cells", channels=1, height=8, width=800, cell=8)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    runs = [
        subprocess.Popen([sys.executable, "-c", RACER, str(cells.path), str(n)], **pipes)
        for n in (1, 2)
    ]
    for run in runs:
        run.stdout.readline()
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    wins = [[int(line) for line in run.communicate()[0].split()] for run in runs]
    assert [a + b for a, b in zip(*wins, strict=True)] == [1] * 100
    for x in range(100):
        assert (cells.read(Box(0, 8 * x, 8, 8 * x + 8)) == (1 if wins[0][x] else 2)).all()


REFUSED = """
import resource, sys, numpy as np
from storage.run_store.cells import Cells
# What a full disk does: the write stops half way.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
cells = Cells.open(sys.argv[1])
try:
    cells.write(cells.box, np.ones((3, 256, 256), np.float32))
except OSError as error:
    print(error.strerror)
"""


def test_a_write_that_the_disk_refuses_leaves_no_cell_and_no_litter(tmp_path):
    cells = Cells.create(tmp_path / "cells", channels=3, height=256, width=256, cell=128)
    command = [sys.executable, "-c", REFUSED, str(cells.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert not any(cells.exists(box) for box in cell_boxes(cells))
    assert not list((cells.path / "tmp").iterdir())
