"""Plans and verifications as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
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
    spec = plan.spec
    tiling = spec.tiling
    sampling = spec.sampling
    console.print(
        f"{spec.task.name} x{spec.task.scale} with {plan.denoiser.name}: "
        f"{plan.height}x{plan.width} px, "
        f"{plan.out_channels} bands of {plan.dtype}; tile {tiling.tile}, stride {tiling.stride}, "
        f"order {tiling.order}; "
        f"method {sampling.method}, form {sampling.form}, eta {sampling.eta}, {sampling.steps} "
        "steps, "
        f"noise x{sampling.noise_scale}"
    )
    for line in plan.bands.describe():
        console.print(line)
    for region in plan.regions:
        tiles = sum(level.grid.count for level in region.plan.levels)
        console.print(
            f"region {region.box}: restored first with {region.plan.denoiser.name}, {tiles:,} tiles"
        )
    if not plan.values.full:
        console.print(
            f"black is {plan.values.low:g}, white is {plan.values.high:g} of {plan.dtype}"
        )
    table = Table("level", "size", "tiles", "scale", "NFE/tile", box=None, pad_edge=False)
    for level in reversed(numbers.levels):
        table.add_row(
            str(level.level),
            f"{level.height}x{level.width}",
            f"{level.rows}x{level.cols} = {level.tiles:,}",
            f"x{level.scale}",
            str(level.nfe_per_tile),
        )
    console.print(table)
    time = (
        "unknown for this network: give --step-seconds"
        if numbers.seconds is None
        else duration(numbers.seconds)
    )
    for name, value in (
        ("tiles", f"{numbers.tiles:,}"),
        *(
            []
            if filled == 0
            else [
                ("filled without it", "not counted" if filled is None else f"at least {filled:,}")
            ]
        ),
        ("network evaluations", f"{numbers.nfe:,}"),
        ("critical path", f"{numbers.critical_path:,} tiles"),
        ("useful workers", f"about {numbers.useful_workers:,}; more would mostly wait"),
        ("memory per worker", size(numbers.worker_memory)),
        ("disk", size(numbers.disk)),
        (f"time with {numbers.workers} worker{'s' if numbers.workers > 1 else ''}", time),
    ):
        console.print(f"{name + ':':22} {value}")


def print_sizing(found: Sizing) -> None:
    """Print the nodes that are worth having, and a warning when more were asked for."""
    console = Console(highlight=False)
    console.print(f"{'recommended:':22} {describe(found.gpu, 'GPU(s)')}; or")
    console.print(f"{'':22} {describe(found.cpu, 'CPU core(s)')}")
    if found.warning:
        console.print(f"{'warning:':22} {found.warning}", soft_wrap=True)


def print_forecast(plan: Plan, found: Forecast) -> None:
    """Print what more workers would buy, and how many workers each order keeps busy."""
    console = Console(highlight=False)
    shape = found.parallelism
    console.print(f"{'parallel tiles:':22} {shape.mean:,.0f} on average, {shape.peak:,} at most")
    console.print("\nworkers that each order keeps busy, by tiles in a batch:")
    batches = list(next(iter(found.useful.values()), {}))
    table = Table("order", *map(str, batches), box=None, pad_edge=False)
    for order, counts in found.useful.items():
        mark = " *" if order == plan.spec.tiling.order else ""
        table.add_row(order + mark, *(f"{counts[batch]:,}" for batch in batches))
    console.print(table)
    if not found.simulations or found.device is None:
        why = (
            "give --step-seconds or --measure"
            if found.device is None
            else "--simulate does it for so many tiles"
        )
        console.print(f"\nnot simulated: {why}")
        return
    cost = f"{found.device.per_call:.3g} s + {found.device.per_tile:.3g} s a tile"
    console.print(f"\nsimulated, batches of {found.batch}, an evaluation taking {cost}:")
    table = Table("workers", "time", "busy", "lower bound / time", box=None, pad_edge=False)
    for s in found.simulations:
        table.add_row(
            f"{s.workers:,}", duration(s.makespan), f"{s.utilisation:.0%}", f"{s.efficiency:.2f}"
        )
    console.print(table)


def print_verification(found: Verification) -> None:
    """Print what a verification found, one line each."""
    print(f"complete: {'yes' if found.complete else 'NO'}")
    for tile in found.substituted:
        print(f"NOT RESTORED: {tile_name(tile)}: what was measured stands in for it")
    c = found.consistency
    if c is None:
        print("consistency: no measurement (generation)")
    else:
        verdict = (
            "noisy measurement, residual expected"
            if found.noisy
            else "holds"
            if found.consistent
            else "VIOLATED"
        )
        if found.all_clipped and not found.noisy and not found.consistent:
            verdict = (
                "NOT SHOWN: every value has a pixel at black or white, where rounding is not all "
                "that errs"
            )
        print(
            f"consistency |A x - y|: max {c.max:.3f}, RMS {c.rms:.3f} grey levels over "
            f"{c.cells:,} values (limit "
            f"{found.limit:.2f}: {verdict}); "
            f"{c.clipped:,} more with clipped pixels, max {c.clipped_max:.3f}"
        )
    for name, ratio in (
        ("rows", found.seams.rows),
        ("columns", found.seams.columns),
        ("overall", found.seams.overall),
    ):
        error = "" if ratio.lines < 2 else f" +- {ratio.stderr:.3f}"
        print(f"seam ratio, {name}: {ratio.ratio:.3f}{error} over {ratio.lines} edges")
    print(
        "seam ratio against lines of every phase of the operator's lattice: "
        f"{found.seams.unphased.ratio:.3f}"
    )


def tile_name(tile: Mapping[str, Any]) -> str:
    """Name a tile that could not be restored, and where it lies."""
    y0, x0, y1, x1 = tile["box"]
    return (
        f"tile level {tile['level']} row {tile['row']} column {tile['col']}, rows {y0}-{y1}, "
        f"columns {x0}-{x1} px"
    )
