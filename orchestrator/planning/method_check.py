"""Ask a method whether it can restore a plan's measurement, as a worker would, before anything is
written.
"""

from __future__ import annotations

from kernels.sampling.method_registry import describe_method
from orchestrator.job.plan import Plan
from orchestrator.job.trajectory import trajectory


def check_method(plan: Plan) -> None:
    """Raise ValueError on one line when the method cannot restore the measurement of any level of
    the plan.

    The operators of one tile per level are built for it, with every measurement known and 0.
    Methods that take all operators are not asked, so that planning needs torch for the others only.
    """
    sampling = plan.spec.sampling
    method = describe_method(sampling.method)
    particular = method.takes != "any" or (method.name == "pigdm" and plan.spec.task.noisy)
    if not (particular and plan.task.measured):
        return
    import torch

    from kernels.sampling.constraints import Problem
    from kernels.sampling.sampler import SamplerConfig, strategy
    from orchestrator.measurement.tile_operator import tile_measurement

    shape = (plan.denoiser.channels, plan.tile, plan.tile)
    for level in plan.levels:
        cells = plan.tile // level.posed.scale
        if not plan.task.picture:
            y = plan.task.operator(plan.spec.task).A(torch.zeros(1, *shape))
        else:
            y = torch.zeros(1, 1 if plan.grey else plan.denoiser.channels, cells, cells)
        fine = (
            torch.ones(1, 1, plan.tile, plan.tile, dtype=torch.bool)
            if plan.task.fine_mask
            else None
        )
        first = level.grid.box(level.grid.key(0))
        measurement = tile_measurement(plan, level, y, [first], fine)
        route = trajectory(plan, level)
        config = SamplerConfig(
            schedule=route.schedule, times=route.times, method=method.name, form=sampling.form
        )
        strategy(config).check(Problem(guide=None, measurement=measurement, known=None), shape)


def check_bands(plan: Plan) -> None:
    """Raise ValueError when an own operator's measurement has another number of bands than the
    input.
    """
    if not plan.task.mixes_bands:
        return
    import torch

    operator = plan.task.operator(plan.spec.task)
    bands = operator.A(
        torch.zeros(1, plan.denoiser.channels, operator.alignment, operator.alignment)
    ).shape[1]
    if bands != plan.spec.input.bands:
        raise ValueError(
            f"the input has {plan.spec.input.bands} bands, {plan.spec.task.operator} measures "
            f"{bands} of the "
            f"{plan.denoiser.channels} channels of {plan.denoiser.name}; give a measurement with "
            f"{bands} bands"
        )
