"""`bench io`: import, publishing and exports against a raw copy of the same pixels, and the memory
that they need.

Every step runs in a process of its own under a hard limit of its data memory (RLIMIT_DATA), reports
its own CPU and wall time, and is watched for its peak of anonymous memory. Rates are per CPU
second, which a busy machine does not change.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from orchestrator.errors import PlanError
from storage import atomic_files
from storage.box import Box

BANDS = 3
TILE = 256
MIB = 1 << 20
# What each step should reach: its share of the raw copy's rate, and peak anonymous memory in MiB,
# which is also what it may allocate (with more it fails): an image of 20,000 px does not fit.
TARGETS: dict[str, tuple[float | None, int]] = {
    "import": (0.15, 512),
    "publish": (0.10, 512),
    "read published": (None, 512),
    "export tiff none": (0.50, 768),
    "export tiff zstd": (0.15, 768),
    "export ome-tiff zstd": (0.15, 768),
    "export cog zstd": (0.10, 768),
}
COPIES = ("raw copy", "raw copy, flushed")
MOST_AMPLIFICATION = 1.25
REPEATS = 5
REPEATED_SIDE = 20_000
_WATCH_SECONDS = 0.02
_TABLE_WIDTH = 100
# Side of the image with which a step is tried first, so that what it loads and starts is not
# measured.
_WARM_SIDE = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class IoStep:
    """One step; rates count the pixels of level 0 once."""

    name: str
    mb_per_cpu_s: float
    mb_per_s: float
    ratio: float
    """Of the raw copy's rate per CPU second."""
    flushed_ratio: float
    """Of the rate per CPU second of a raw copy that is flushed to the disk, as everything is that
    is measured here.
    """
    wall_ratio: float
    """Of the flushed copy's rate."""
    peak_anon_mib: float
    target: float | None
    limit_mib: float | None
    met: bool


def run_bench(side: int, folder: Path | None) -> None:
    """Measure an image of side x side px, RGB uint8; prints a table and, last, one line of JSON."""
    needed = side * side * BANDS * 6
    with tempfile.TemporaryDirectory(prefix="gigarestore-bench-", dir=folder) as name:
        if shutil.disk_usage(name).free < needed:
            raise PlanError(
                f"bench io of {side} px needs {needed / 1e9:.1f} GB in {name}; choose a smaller "
                "--side"
            )
        costs = {step: _measured(step, Path(name), side) for step in (*COPIES, *TARGETS)}
        amplification = float(_child("windows", Path(name), side)["amplification"])
    size = side * side * BANDS / 1e6
    copies = [costs[name] for name in COPIES]
    steps = [_rated(name, size, copies, cost) for name, cost in costs.items()]
    _print(steps, amplification)
    report = {
        "side": side,
        "megabytes": size,
        "steps": [asdict(step) for step in steps],
        "amplification": amplification,
        "amplification_met": amplification <= MOST_AMPLIFICATION,
    }
    print(json.dumps(report))


def _rated(name: str, size: float, copies: list[dict[str, Any]], one: dict[str, Any]) -> IoStep:
    target, limit = TARGETS.get(name, (None, None))
    raw, flushed = copies
    ratio = raw["cpu"] / one["cpu"]
    met = (target is None or ratio >= target) and (limit is None or one["peak"] <= limit)
    return IoStep(
        name=name,
        mb_per_cpu_s=size / one["cpu"],
        mb_per_s=size / one["wall"],
        ratio=ratio,
        flushed_ratio=flushed["cpu"] / one["cpu"],
        wall_ratio=flushed["wall"] / one["wall"],
        peak_anon_mib=one["peak"],
        target=target,
        limit_mib=limit,
        met=met,
    )


def _print(steps: list[IoStep], amplification: float) -> None:
    columns = ("step", "MB/cpu-s", "MB/s", "of copy", "target", "of flushed", "peak MiB", "target ")
    table = Table(*(Column(name, no_wrap=True) for name in columns), box=None)
    for step in steps:
        table.add_row(
            step.name,
            f"{step.mb_per_cpu_s:.0f}",
            f"{step.mb_per_s:.0f}",
            f"{step.ratio:.2f}",
            "" if step.target is None else f"{step.target:.2f}",
            f"{step.flushed_ratio:.2f}",
            f"{step.peak_anon_mib:.0f}",
            "" if step.limit_mib is None else f"{step.limit_mib:.0f}",
        )
    console = Console()
    Console(width=max(console.width, _TABLE_WIDTH)).print(table)
    print(
        f"windows of a serial run read {amplification:.2f} times the image "
        f"(target {MOST_AMPLIFICATION})"
    )


def _measured(name: str, folder: Path, side: int) -> dict[str, Any]:
    """Return the best of a few tries where they are short: others use the machine, and pages are
    slow the first time.
    """
    tries = [_child(name, folder, side) for _ in range(REPEATS if side <= REPEATED_SIDE else 1)]
    best = {key: min(float(one[key]) for one in tries) for key in ("cpu", "wall")}
    return {**best, "peak": max(float(one["peak"]) for one in tries)}


def _child(name: str, folder: Path, side: int) -> dict[str, Any]:
    """Run one step in a process of its own; its peak is the largest RssAnon that was seen."""
    command = [sys.executable, "-m", "cluster.bench.io", name, str(folder), str(side)]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(_WATCH_SECONDS)
        assert process.stdout is not None
        out = process.stdout.read()
    if process.returncode:
        raise PlanError(
            f"bench io: step {name} failed (exit code {process.returncode}); see its message above"
        )
    return {**json.loads(out.splitlines()[-1]), "peak": peak / MIB}


def _anonymous(pid: int) -> int:
    """Return the anonymous memory of a process, bytes; 0 where the system does not tell, or it has
    ended.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def _main(name: str, folder: Path, side: int) -> None:
    """Run a step in this process and print its times; what it needs is made first, outside the
    measurement.
    """
    small = folder / "small" / "source.tif"
    source = folder / "source.tif"
    for path, length in ((small, _WARM_SIDE), (source, side)):
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            _make_source(path, length)
    limit = TARGETS.get(name, (None, 768))[1] * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if name == "windows":
        print(json.dumps({"amplification": _amplification(source)}))
        return
    _step(name, small.parent, small)()
    act = _step(name, folder, source)
    cpu = time.process_time()
    wall = time.perf_counter()
    act()
    print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}))


def _step(name: str, folder: Path, source: Path) -> Callable[[], object]:
    """Return a step; what it wrote before is deleted here, outside the measurement."""
    if name in COPIES:
        copy = folder / "copy.raw"
        copy.unlink(missing_ok=True)
        return lambda: _raw_copy(source, copy, flush=name == COPIES[1])
    if name == "import":
        from storage.readers.staging import stage

        shutil.rmtree(folder / "staged.zarr", ignore_errors=True)
        return lambda: stage(source, folder / "staged.zarr")
    if name == "publish":
        shutil.rmtree(folder / "out.zarr", ignore_errors=True)
        return lambda: _publish(source, folder / "out.zarr")
    if name == "read published":
        return lambda: _read_published(folder / "out.zarr")
    from storage.export.export_image import export

    _, kind, compression = name.split(" ")
    file = folder / "out.tif"
    file.unlink(missing_ok=True)
    return lambda: export(folder / "out.zarr", file, format=kind, compression=compression)


def _raw_copy(source: Path, dest: Path, *, flush: bool) -> None:
    """Copy a file in bands of 16 MiB through numpy: what reading and writing the pixels costs at
    least.
    """
    pixels = np.memmap(source, np.uint8, "r")
    with dest.open("wb") as file:
        for start in range(0, len(pixels), 16 * MIB):
            file.write(np.array(pixels[start : start + 16 * MIB]).data)
        if flush:
            os.fsync(file.fileno())


def _publish(source: Path, dest: Path) -> None:
    from storage.geo import Georeference
    from storage.image_metadata import ImageMetadata
    from storage.publishing.publish import publish
    from storage.readers.reader_registry import open_image

    reader = open_image(source)
    info = reader.info
    geo = Georeference(crs="", transform=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    publish(
        reader.read,
        dest,
        height=info.height,
        width=info.width,
        channels=info.channels,
        dtype=info.dtype,
        metadata=ImageMetadata(geo=geo),
    )


def _read_published(path: Path) -> None:
    """Decode level 0: what an export takes at least."""
    from storage.zarr_format.published_image import PublishedImage

    image = PublishedImage.open(path)
    for row, col in image.levels[0].places():
        image.read(0, image.levels[0].box(row, col))


def _amplification(source: Path) -> float:
    """Return how often a serial run reads each pixel of the file, through the run's own reader."""
    from orchestrator.scheduling.frontier import Frontier
    from orchestrator.tiling.grid import TileGrid
    from orchestrator.tiling.task_graph import TaskGraph
    from storage.readers.cache import CachedReader
    from storage.readers.reader_registry import open_image

    reader = CachedReader(open_image(source))
    height = reader.info.height
    width = reader.info.width
    grid = TileGrid.build(0, height, width, TILE, TILE * 3 // 4, "raster", TILE // 8)
    frontier = Frontier(TaskGraph([grid], 2))
    while keys := frontier.take(1):
        for key in keys:
            reader.read(Box(*grid.box(key)).expand(4).clip(height, width))
        frontier.committed(keys)
    return reader.loaded / reader.info.nbytes


def _make_source(path: Path, side: int) -> None:
    """Write an uncompressed tiled TIFF with smooth shapes and sensor noise, different in every
    tile.
    """
    import tifffile

    rng = np.random.default_rng(0)
    y, x = np.mgrid[: 4 * TILE, : 4 * TILE]
    shapes = np.stack(
        [90 * np.sin(x / (30 + 7 * c)) * np.cos(y / (40 + 5 * c)) + 128 for c in range(BANDS)],
        axis=-1,
    )
    texture = np.clip(shapes + rng.normal(0, 6, shapes.shape), 0, 255).astype(np.uint8)

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for _ in range((-(-side // TILE)) ** 2):
            dy, dx = rng.integers(0, 3 * TILE, 2)
            yield texture[dy : dy + TILE, dx : dx + TILE]

    shape = (side, side, BANDS)
    with (
        atomic_files.atomic_output(path, overwrite=True) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=True) as tiff,
    ):
        tiff.write(
            tiles(),
            shape=shape,
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="rgb",
            metadata=None,
        )


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
