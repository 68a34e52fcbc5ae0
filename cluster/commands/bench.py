"""The commands `gigarestore bench ...`: what the loop around the network costs, on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

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
    """Compare tile-steps per second of the whole sampler with those of the bare network, per batch
    size.
    """
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


@app.command()
def scheduler(
    tiles: Annotated[str, typer.Option(help="Tiles, ROWSxCOLUMNS.")] = "64x128",
    workers: Annotated[str, typer.Option(help="Numbers of workers, with commas.")] = "1,8,16,32,64",
    batch: Annotated[int, typer.Option(help="Tiles per worker call.")] = 4,
    order: Annotated[str, typer.Option(help="raster, centre, bridge or colour.")] = "centre",
    call_seconds: Annotated[float, typer.Option(help="Time of a batch, whatever its size.")] = 0.04,
    tile_seconds: Annotated[
        float, typer.Option(help="Time of a batch for each tile in it.")
    ] = 0.01,
    jitter: Annotated[
        float, typer.Option(help="Greatest relative deviation of a batch's time.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the jitter.")] = 0,
    processes: Annotated[
        int, typer.Option(help="Processes that the workers share at most.", min=1)
    ] = 8,
) -> None:
    """Run the scheduler on Ray with workers that only let time pass, beside what the simulator says
    it should take.
    """
    from cluster.bench.scheduler import run_bench
    from cluster.options import parsers
    from orchestrator.scheduling.simulator import Device

    rows, cols = parsers.parse_size(tiles, "--tiles", "64x128")
    device = Device(per_call=call_seconds, per_tile=tile_seconds, jitter=jitter, seed=seed)
    run_bench(
        rows,
        cols,
        order,
        batch,
        device,
        parsers.parse_counts(workers),
        processes,
    )


@app.command()
def batch(
    tiles: Annotated[str, typer.Option(help="Tiles of an image, ROWSxCOLUMNS.")] = "8x12",
    images: Annotated[int, typer.Option(help="Images.", min=1)] = 8,
    open_images: Annotated[
        str, typer.Option("--open", help="Images open at a time, with commas.")
    ] = "1,2,4,8",
    workers: Annotated[int, typer.Option(help="Workers.", min=1)] = 8,
    batch: Annotated[int, typer.Option(help="Tiles per worker call.", min=1)] = 1,
    order: Annotated[str, typer.Option(help="raster, centre, bridge or colour.")] = "centre",
    call_seconds: Annotated[float, typer.Option(help="Time of a batch, whatever its size.")] = 0.08,
    tile_seconds: Annotated[
        float, typer.Option(help="Time of a batch for each tile in it.")
    ] = 0.02,
    jitter: Annotated[
        float, typer.Option(help="Greatest relative deviation of a batch's time.")
    ] = 0.05,
    between: Annotated[
        float, typer.Option(help="Time between an image's last tile and its thread's next image.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the jitter.")] = 0,
) -> None:
    """Run several images on workers that only let time pass, one at a time and more: how busy are
    the workers?
    """
    from cluster.bench.batches import run_bench
    from cluster.options import parsers
    from orchestrator.scheduling.simulator import Device

    rows, cols = parsers.parse_size(tiles, "--tiles", "8x12")
    device = Device(per_call=call_seconds, per_tile=tile_seconds, jitter=jitter, seed=seed)
    run_bench(
        rows,
        cols,
        order,
        images,
        parsers.parse_counts(open_images),
        device,
        workers,
        batch,
        between,
    )


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
    """Compare import, publishing and exports with a raw copy, and measure their memory; needs
    rasterio for the COG.
    """
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
    order: Annotated[str, typer.Option(help="raster, centre, bridge or colour.")] = "centre",
    batch: Annotated[int, typer.Option(help="Tiles per worker call.", min=1)] = 1,
    plot: Annotated[Path | None, typer.Option(help="SVG file to draw.")] = None,
) -> None:
    """Restore a picture with more and more workers on the devices here, beside the bound of the
    tiles' graph.
    """
    from cluster.bench.scaling import ScalingCase, run_scaling
    from cluster.options import parsers

    case = ScalingCase(
        denoiser=denoiser,
        tile=tile,
        stride=stride,
        steps=steps,
        order=order,
        batch=batch,
    )
    run_scaling(case, tiles, parsers.parse_counts(workers), plot)


def _natural(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(
            f"--batches: {text!r} is no batch size; give whole numbers with commas, 1,4,16"
        )
    return int(text)
