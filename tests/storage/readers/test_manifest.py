"""Every collected file behaves as its manifest expects: its exact pixels, or one clear line; a
count per verdict.
"""

import csv
import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from storage.errors import FormatError
from storage.image import Selection
from storage.readers.reader_registry import open_image
from tests.places import DATA

pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason="the collection of real, odd and damaged files is not here"
)

# Samples that this program has no type for: refused in one line, never cut down to fewer bits.
NO_TYPE = ("float64", "uint32", "uint64")
# One of its two strips is not there; nothing is filled in where no nodata value says what belongs
# there.
INCOMPLETE = ("odd/separate_planar_extra_samples.tiff",)
# Larger files are opened and sampled, not read whole.
MOST_PIXELS = 40_000_000


def rows():
    if not DATA.exists():
        return []
    with (DATA / "MANIFEST.tsv").open(newline="") as table:
        return list(csv.DictReader(table, delimiter="\t"))


def expected(name):
    return json.loads((DATA / "EXPECT.json").read_text())[name]


def verdict(row):
    return row["expect"].split("|")[0].split(";")[0].split(":")[0].strip() or row["expect"][:20]


def opened(path):
    """Open a file, taking the first frame of those that hold several; return (reader, whether a
    choice was needed).
    """
    try:
        return open_image(path), False
    except FormatError as error:
        if "choose one with --" not in str(error):
            raise
        axes = {axis: 0 for axis in ("z", "t") if f"--{axis} 0" in str(error)}
        return open_image(path, Selection(**axes)), True


def outcome(path):
    """Return (pixels or None, description or None, line or "", error type or None)."""
    try:
        reader, _ = opened(path)
        info = reader.info
        if info.height * info.width > MOST_PIXELS:
            window = reader.read(type(info.box)(0, 0, 512, 512))
            assert window.shape == (info.channels, 512, 512)
            reader.close()
            return None, info, "", None
        pixels = reader.read(info.box)
        reader.close()
    except FormatError as error:
        return None, None, str(error), type(error)
    assert (pixels.shape, str(pixels.dtype)) == (info.shape, info.dtype)
    return pixels, info, "", None


def stored_hash(pixels, info, dtype):
    """Hash delivered pixels as the file stores them: orientation put back, samples last, the stored
    dtype.
    """
    rows = pixels.transpose(1, 2, 0)
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[info.orientation]
    if back >= 5:
        rows = rows.swapaxes(0, 1)
    if back in (3, 4, 7, 8):
        rows = rows[::-1]
    if back in (2, 3, 6, 7):
        rows = rows[:, ::-1]
    kind = np.dtype(dtype)
    if kind.kind == "b":
        rows = rows > 0
        if any("0 is white" in note for note in info.notes):
            rows = ~rows
    elif any("0 is white" in note for note in info.notes):
        rows = ((1 << info.bits) - 1) - rows
    rows = np.ascontiguousarray(rows[..., 0] if rows.shape[2] == 1 else rows)
    return hashlib.sha256(rows.astype(kind.newbyteorder("<")).tobytes()).hexdigest()


def check(name, row):
    """Return how a file behaved, asserting that it is one of the ways that its manifest allows."""
    path = DATA / name
    said = row["expect"]
    facts = expected(name)
    pixels, info, line, kind = outcome(path)
    assert "\n" not in line, name
    if line:
        assert line.startswith(str(path)), (name, line)
    must_fail = said.startswith(("must be refused", "must report failure", "refuse:"))
    if must_fail and "or warned" not in said:
        assert line, f"{name} was read although it {verdict(row)}"
        return "refused" if kind is FormatError else "damage reported"
    if line:
        assert (
            not said.startswith("ok")
            or facts["dtype"] in NO_TYPE
            or name in INCOMPLETE
            or "refuse" in said
        ), line
        return "refused"
    if pixels is None:
        return "opened"
    if any("palette" in note for note in info.notes):
        return "converted"
    hashes = facts["pixel_sha256"]
    if any("alpha channel is left out" in note for note in info.notes):
        reader = open_image(path, Selection(channel=tuple(range(info.channels + 1))))
        pixels = reader.read(reader.info.box)
        info = reader.info
        reader.close()
    if (
        hashes and info.axes and name.endswith(".zarr")
    ):  # one frame of many: compared with zarr itself in test_formats
        return "read"
    if hashes and (info.format != "JPEG" or facts["pixel_by"].startswith("imagecodecs")):
        wanted = next(iter(hashes.values()))
        multi = info.channels > 1 and "x" in row["shape"] and row["shape"].count("x") == 1
        given = pixels[:1] if multi else pixels
        found = stored_hash(given, info, facts["dtype"])
        assert found == wanted, f"{name}: other pixels than {facts['pixel_by']} gave"
        return "exact pixels"
    return "read"


@pytest.fixture(scope="module")
def behaviours():
    return {}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["file"])
def test_a_collected_file_behaves_as_its_manifest_expects(row, behaviours):
    if row["file"].endswith(".ovr"):
        pytest.skip("an overview that belongs to another file, not an input")
    if not (DATA / row["file"]).exists():
        pytest.skip("named in the manifest, not in the collection")
    behaviours[row["file"]] = (verdict(row), check(row["file"], row))


def test_the_count_per_verdict_is_printed(behaviours, capsys):
    counts = Counter(behaviours.values())
    assert sum(counts.values()) > 100
    with capsys.disabled():
        print()
        for (said, did), count in sorted(counts.items()):
            print(f"  {count:3} {said}: {did}")
