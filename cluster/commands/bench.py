"""The commands `gigarestore bench ...`: what the loop around the network costs, on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.options import parsers

if TYPE_CHECKING:
    from orchestrator.scheduling.simulator import Device

app = typer.Typer(no_args_is_help=True, help="Measure this machine.")


@app.callback()
def bench() -> None:
    """Measure this machine."""


@app.command()
def kernels(
    networks: Annotated[
        str, typer.Option(help="builtin, guided-diffusion, or both with a comma.")
    ] = "",
    batches: Annotated[
        str, typer.Option(help="Batch sizes, with commas.", show_default="1,2,4; 1 to 64 on a GPU")
    ] = "",
    variants: Annotated[
        str, typer.Option(help="Variants by name, with commas.", show_default="all")
    ] = "",
    device: Annotated[
        str, typer.Option(help="cpu or cuda.", show_default="the GPU where there is one")
    ] = "",
    steps: Annotated[int, typer.Option(help="Steps per measurement.", min=2)] = 5,
    repeats: Annotated[int, typer.Option(help="Interleaved repeats.", min=1)] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Compare the whole sampler with the bare network, in tile-steps per second."""
    import torch

    from kernels.bench import sampler_cost as measurements
    from kernels.bench.variants import networks as known

    gpu = torch.cuda.is_available()
    chosen = device or ("cuda" if gpu else "cpu")
    if chosen == "cpu":
        torch.set_num_threads(1)
    usual = measurements.GPU_BATCHES if chosen != "cpu" else measurements.CPU_BATCHES
    sizes = [_natural(text) for text in batches.split(",")] if batches else list(usual)
    names = networks.split(",") if networks else list(known())
    try:
        for row in measurements.measure(
            chosen, names, sizes, steps, repeats, [v for v in variants.split(",") if v]
        ):
            print(json.dumps(asdict(row)) if as_json else measurements.text(row), flush=True)
    except ValueError as err:
        raise typer.BadParameter(str(err)) from None


BatchSize = Annotated[int, typer.Option("--batch-size", help="Tiles per worker call.", min=1)]
OldBatchSize = Annotated[int | None, typer.Option("--batch", hidden=True, min=1)]
Order = Annotated[str, typer.Option(help="raster, centre, bridge or colour.")]
CallSeconds = Annotated[float, typer.Option(help="Time of a call, however many tiles.")]
TileSeconds = Annotated[float, typer.Option(help="Time of a call for each tile in it.")]
Jitter = Annotated[float, typer.Option(help="Greatest relative deviation of a call's time.")]
JitterSeed = Annotated[int, typer.Option(help="Seed of the jitter.")]


@app.command()
def scheduler(
    tiles: Annotated[str, typer.Option(help="Tiles, ROWSxCOLUMNS.")] = "64x128",
    workers: Annotated[str, typer.Option(help="Numbers of workers, with commas.")] = "1,8,16,32,64",
    batch_size: BatchSize = 4,
    old_batch_size: OldBatchSize = None,
    order: Order = "centre",
    call_seconds: CallSeconds = 0.04,
    tile_seconds: TileSeconds = 0.01,
    jitter: Jitter = 0.05,
    seed: JitterSeed = 0,
    processes: Annotated[
        int, typer.Option(help="Processes that the workers share at most.", min=1)
    ] = 8,
) -> None:
    """Run the scheduler on Ray with workers that only let time pass, beside the simulator."""
    from cluster.bench.scheduler_report import run_bench

    rows, cols = parsers.parse_size(tiles, "--tiles", "64x128")
    device = _device(call_seconds, tile_seconds, jitter, seed)
    counts = parsers.parse_counts(workers)
    run_bench(rows, cols, order, old_batch_size or batch_size, device, counts, processes)


@app.command()
def batch(
    tiles: Annotated[str, typer.Option(help="Tiles of an image, ROWSxCOLUMNS.")] = "8x12",
    images: Annotated[int, typer.Option(help="Images.", min=1)] = 8,
    open_images: Annotated[
        str, typer.Option("--open", help="Images open at a time, with commas.")
    ] = "1,2,4,8",
    workers: Annotated[int, typer.Option(help="Workers.", min=1)] = 8,
    batch_size: BatchSize = 1,
    old_batch_size: OldBatchSize = None,
    order: Order = "centre",
    call_seconds: CallSeconds = 0.08,
    tile_seconds: TileSeconds = 0.02,
    jitter: Jitter = 0.05,
    between: Annotated[
        float, typer.Option(help="Time between an image's last tile and its thread's next image.")
    ] = 0.0,
    seed: JitterSeed = 0,
) -> None:
    """Run several images on workers that only let time pass: how busy are the workers?"""
    from cluster.bench.batches import run_bench

    rows, cols = parsers.parse_size(tiles, "--tiles", "8x12")
    windows = parsers.parse_counts(open_images)
    device = _device(call_seconds, tile_seconds, jitter, seed)
    tiles_per_call = old_batch_size or batch_size
    run_bench(rows, cols, order, images, windows, device, workers, tiles_per_call, between)


def _device(call_seconds: float, tile_seconds: float, jitter: float, seed: int) -> Device:
    from orchestrator.scheduling.simulator import Device

    return Device(per_call=call_seconds, per_tile=tile_seconds, jitter=jitter, seed=seed)


@app.command()
def io(
    side: Annotated[int, typer.Option(help="Side of the image, px.", min=600)] = 4000,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where to write, on the disk to be measured.", show_default="the temporary folder"
        ),
    ] = None,
) -> None:
    """Compare import, publishing and exports with a raw copy; needs rasterio for the COG."""
    from cluster.bench.io import run_bench

    run_bench(side, folder)


@app.command()
def scaling(
    workers: Annotated[str, typer.Option(help="Numbers of workers, with commas.")] = "1,2",
    tiles: Annotated[int, typer.Option(help="Tiles along a side of the picture.", min=2)] = 6,
    denoiser: Annotated[str, typer.Option(help="As for restore.")] = "builtin",
    tile: Annotated[int, typer.Option(help="Side of a tile in px.")] = 128,
    stride: Annotated[int, typer.Option(help="Distance between tiles in px.")] = 96,
    steps: Annotated[int, typer.Option(help="Denoising steps per tile.", min=1)] = 5,
    order: Order = "centre",
    batch_size: BatchSize = 1,
    old_batch_size: OldBatchSize = None,
    plot: Annotated[Path | None, typer.Option(help="SVG file to draw.")] = None,
) -> None:
    """Restore a picture with more and more workers on the devices here."""
    from cluster.bench.scaling import ScalingCase, run_scaling

    case = ScalingCase(
        denoiser=denoiser,
        tile=tile,
        stride=stride,
        steps=steps,
        order=order,
        batch=old_batch_size or batch_size,
    )
    run_scaling(case, tiles, parsers.parse_counts(workers), plot)


def _natural(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(
            f"--batches: {text!r} is no batch size; give whole numbers with commas, 1,4,16"
        )
    return int(text)
