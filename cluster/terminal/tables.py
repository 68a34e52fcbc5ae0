"""Plans and verifications as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cluster.terminal.node_advice import Sizing, describe
from cluster.terminal.progress import duration, size
from orchestrator.job.plan import Plan
from orchestrator.planning.estimate import Estimate
from orchestrator.planning.forecast import Forecast

if TYPE_CHECKING:
    from orchestrator.run.verify import Verification


def print_plan(plan: Plan, numbers: Estimate, filled: int | None) -> None:
    """Print a plan and what it will cost; filled: tiles that need no network, None where they were
    not counted.
    """
    console = Console(highlight=False)
    console.print(_settings_line(plan))
    for line in plan.bands.describe():
        console.print(line)
    for region in plan.regions:
        tiles = sum(level.grid.count for level in region.plan.levels)
        name = region.plan.denoiser.name
        console.print(f"region {region.box}: restored first with {name}, {tiles:,} tiles")
    for line in (*validity_lines(plan), *plan.inputs.findings, *range_lines(plan)):
        console.print(line, soft_wrap=True)
    for line in plan.inputs.warnings:
        console.print(f"warning: {line}", soft_wrap=True)
    console.print(_levels_table(numbers))
    for name, text in _costs(numbers, filled):
        console.print(f"{name + ':':22} {text}")


def validity_lines(plan: Plan) -> Iterator[str]:
    """Yield what says that samples are no measurement and stay so; nothing where nothing does."""
    spec = plan.spec.input
    image = plan.inputs.image
    said = [] if spec.keep_nodata is None else [f"nodata {spec.keep_nodata:g}"]
    if spec.keep_mask is not None and image is not None:
        said.append(image.valid_by)
    if said:
        yield f"samples without data stay so: {', '.join(said)}"


def range_lines(plan: Plan) -> Iterator[str]:
    """Yield which stored values are black and white and where that is from; nothing for all of 8
    bit.
    """
    values = plan.values
    source = plan.spec.input.values_from
    if not (values.full and plan.dtype == "uint8"):
        words = f" ({source})" if source else ""
        ends = values.bands or ((values.low, values.high),)
        for number, (low, high) in enumerate(ends, 1):
            band = f" in band {number}" if values.bands else ""
            yield f"black is {low:g}, white is {high:g} of {plan.dtype}{band}{words}"


def _settings_line(plan: Plan) -> str:
    spec = plan.spec
    tiling = spec.tiling
    sampling = spec.sampling
    return (
        f"{spec.task.name} x{spec.task.scale} with {plan.denoiser.name}: "
        f"{plan.height}x{plan.width} px, {plan.out_channels} bands of {plan.dtype}; "
        f"tile {tiling.tile}, stride {tiling.stride}, order {tiling.order}; "
        f"method {sampling.method}, form {sampling.form}, eta {sampling.eta}, "
        f"{sampling.steps} steps, noise x{sampling.noise_scale}"
    )


def _levels_table(numbers: Estimate) -> Table:
    table = Table("level", "size", "tiles", "scale", "NFE/tile", box=None, pad_edge=False)
    for level in reversed(numbers.levels):
        table.add_row(
            str(level.level),
            f"{level.height}x{level.width}",
            f"{level.rows}x{level.cols} = {level.tiles:,}",
            f"x{level.scale}",
            str(level.nfe_per_tile),
        )
    return table


def _costs(numbers: Estimate, filled: int | None) -> Iterator[tuple[str, str]]:
    """Yield what a plan costs, name and figure."""
    yield "tiles", f"{numbers.tiles:,}"
    if filled is None:
        yield "filled without it", "not counted"
    elif filled:
        yield "filled without it", f"at least {filled:,}"
    yield "network evaluations", f"{numbers.nfe:,}"
    yield "critical path", f"{numbers.critical_path:,} tiles"
    yield "useful workers", f"about {numbers.useful_workers:,}; more would mostly wait"
    yield "memory per worker", size(numbers.worker_memory)
    yield "disk", size(numbers.disk)

    workers = "1 worker" if numbers.workers == 1 else f"{numbers.workers} workers"
    if numbers.seconds is None:
        yield f"time with {workers}", "unknown for this network: give --step-seconds"
    else:
        yield f"time with {workers}", duration(numbers.seconds)


def print_sizing(sizing: Sizing) -> None:
    """Print the nodes that are worth having, and a warning when more were asked for."""
    console = Console(highlight=False)
    console.print(f"{'recommended:':22} {describe(sizing.gpu, 'GPU(s)')}; or")
    console.print(f"{'':22} {describe(sizing.cpu, 'CPU core(s)')}")
    if sizing.warning:
        console.print(f"{'warning:':22} {sizing.warning}", soft_wrap=True)


def print_forecast(plan: Plan, outlook: Forecast) -> None:
    """Print what more workers would buy, and how many workers each order keeps busy."""
    console = Console(highlight=False)
    shape = outlook.parallelism
    console.print(f"{'parallel tiles:':22} {shape.mean:,.0f} on average, {shape.peak:,} at most")
    console.print("\nworkers that each order keeps busy, by tiles in a batch:")
    console.print(_useful_table(plan, outlook))

    device = outlook.device
    if device is None:
        console.print("\nnot simulated: give --step-seconds or --measure")
        return
    if not outlook.simulations:
        console.print("\nnot simulated: --simulate does it for so many tiles")
        return
    cost = f"{device.per_call:.3g} s + {device.per_tile:.3g} s a tile"
    console.print(f"\nsimulated, batches of {outlook.batch}, an evaluation taking {cost}:")
    table = Table("workers", "time", "busy", "lower bound / time", box=None, pad_edge=False)
    for simulation in outlook.simulations:
        table.add_row(
            f"{simulation.workers:,}",
            duration(simulation.makespan),
            f"{simulation.utilisation:.0%}",
            f"{simulation.efficiency:.2f}",
        )
    console.print(table)


def _useful_table(plan: Plan, outlook: Forecast) -> Table:
    batches = list(next(iter(outlook.useful.values()), {}))
    table = Table("order", *map(str, batches), box=None, pad_edge=False)
    for order, counts in outlook.useful.items():
        mark = " *" if order == plan.spec.tiling.order else ""
        table.add_row(order + mark, *(f"{counts[batch]:,}" for batch in batches))
    return table


def print_verification(verification: Verification) -> None:
    """Print what a verification found, one line each."""
    for check in verification.checks:
        verdict = "pass" if check.passed else "FAIL"
        print(f"{verdict}  {check.name + ':':14s} {check.says}")
    for tile in verification.substituted:
        print(f"NOT RESTORED: {tile_name(tile)}: what was measured stands in for it")


def tile_name(tile: Mapping[str, Any]) -> str:
    """Name a tile that could not be restored, and where it lies."""
    y0, x0, y1, x1 = tile["box"]
    place = f"tile level {tile['level']} row {tile['row']} column {tile['col']}"
    return f"{place}, rows {y0}-{y1}, columns {x0}-{x1} px"
