"""How a job's tiling is filled in, so that operator, hierarchy and network accept it."""

from __future__ import annotations

from fractions import Fraction

from kernels.denoiser_info import DenoiserInfo
from orchestrator.errors import PlanError
from orchestrator.job.geometry import check_levels, fitting_margin, fitting_stride, fitting_tile
from orchestrator.job.spec import TilingSpec
from orchestrator.job.tasks.task import Task
from orchestrator.tiling.axis import BLOCK

# Stride over tile. Where the margin gives context, a quarter of overlap loses nothing and saves
# half of the work (docs/RESULTS.md); the paper's tiles overlap by half.
USUAL_STRIDE = Fraction(3, 4)
PAPER_STRIDE = Fraction(1, 2)
# All orders give the same quality (docs/RESULTS.md), centre half the depth of the paper's raster.
USUAL_ORDER = "centre"
PAPER_ORDER = "raster"
# Orders in which some tiles restore what the margins on both sides of them leave.
JOINED_ORDERS = ("bridge", "colour")


def resolve_tiling(
    given: TilingSpec,
    task: Task,
    network: DenoiserInfo,
    size: tuple[int, int],
    *,
    paper: bool,
) -> TilingSpec:
    """Return the tiling of an output of `size` (height, width) px with every field set.

    paper: the sampling invents, so that what lies beyond a window decides little of its outer
    pixels. Raises PlanError on one line.
    """
    wanted = given.tile or network.tile
    levels = given.levels or task.deepest(*size, wanted) + 1
    check_levels(task, levels)

    tile = given.tile or _usual_tile(task, network, levels)
    share = PAPER_STRIDE if paper else USUAL_STRIDE
    stride = given.stride or fitting_stride(task, int(tile * share), tile, levels)
    order = given.order or (PAPER_ORDER if paper else USUAL_ORDER)
    margin = given.margin
    if margin is None:
        # Measurements that overlap must be seen by both tiles at a border: the paper's geometry
        # cannot (check_reach).
        context = not paper or order in JOINED_ORDERS or task.stencil is not None
        margin = fitting_margin(task, tile, stride, levels) if context else 0

    filled = {
        "tile": tile,
        "stride": stride,
        "margin": margin,
        "levels": levels,
        "order": order,
        "block": _block(given.block, order),
    }
    return given.model_copy(update=filled)


def _usual_tile(task: Task, network: DenoiserInfo, levels: int) -> int:
    if network.fixed_tile:
        return network.tile
    return fitting_tile(task, network.tile, levels, network.multiple)


def _block(given: int | None, order: str) -> int | None:
    if order == "bridge":
        return given or BLOCK
    if given is not None:
        raise PlanError(f"--order-block is for the order bridge; leave it out with --order {order}")
    return None
