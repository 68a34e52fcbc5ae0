"""Time the sampler against the bare network on the same device, in the same run: what the loop
around it costs.

    python -m kernels.bench.sampler_cost --json

needs torch, numpy and safetensors only. A row is one network, one variant of running it, and one
batch size; its ratio is the sampler's tile-steps per second over the bare network's. Repeats of
both are interleaved, because a machine's speed drifts by more than the loop costs; the ratio is the
median over the repeats, and its range is given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels.bench.variants import Variant, network, networks, variants
from kernels.denoisers.denoiser import Denoiser
from kernels.metrics import psnr
from kernels.noise import KeyedNoise
from kernels.operators.elementary import AveragePool
from kernels.presets import FAITHFUL, PAPER, Preset
from kernels.sampling.constraints import Known, Measurement, Problem, guide
from kernels.sampling.sampler import SamplerConfig, sample
from kernels.schedule import (
    Schedule,
    base_alpha_bar,
    network_calls,
    respaced_timesteps,
    time_travel,
)
from kernels.training.synthetic import draw

SCALE = 4
# Rows of a tile that an earlier tile has committed, as a share of its side.
PINNED = 4
CPU_BATCHES = (1, 2, 4)
GPU_BATCHES = (1, 2, 4, 8, 16, 32, 64)
MATMUL_SIDE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement."""

    network: str
    variant: str
    device: str
    tile: int
    batch: int
    bare: float
    """Tile-steps per second of the network alone."""
    sampler: float
    """Tile-steps per second of the whole loop."""
    ratio: float
    ratio_low: float
    ratio_high: float
    peak_bytes: int | None
    """Largest device memory of a sampler run; None on a CPU."""
    utilisation: float | None
    """FLOP/s of the bare network over those of a large matrix product in the same precision, same
    device.
    """
    eps_error: float
    """Largest difference of one network answer from float32."""
    psnr_change: float
    """PSNR of the result minus that of float32, dB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchCase:
    """A batch of tiles to restore: super-resolution by 4 with guide, pinned rows, warm start."""

    truth: Tensor
    problem: Problem
    start: Tensor
    config: SamplerConfig

    @classmethod
    def build(
        cls,
        denoiser: Denoiser,
        tile: int,
        batch: int,
        steps: int,
        preset: Preset,
        device: str,
    ) -> BenchCase:
        """Draw the tiles and their constraints on the device."""
        pictures = np.stack([draw(0, index, tile) for index in range(batch)])
        truth = torch.from_numpy(pictures).to(device).float() / 127.5 - 1
        y = AveragePool(SCALE).A(truth)
        mask = torch.zeros_like(truth[:, :1], dtype=torch.bool)
        mask[:, :, : tile // PINNED] = True
        problem = Problem(
            guide(AveragePool(2).A(truth), 2),
            Measurement(AveragePool(SCALE), y),
            Known(mask, truth),
        )
        alpha_bar = base_alpha_bar(denoiser.info.alpha_bar, denoiser.info.n_timesteps)
        start = len(alpha_bar) - 1 if preset.start is None else preset.start
        schedule = Schedule.from_timesteps(
            alpha_bar, respaced_timesteps(len(alpha_bar), steps, start)
        )
        config = SamplerConfig(
            schedule=schedule,
            times=tuple(time_travel(len(schedule))),
            form=preset.form,
            eta=preset.eta,
            noise_scale=preset.noise_scale,
        )
        return cls(
            truth=truth,
            problem=problem,
            start=AveragePool(SCALE).pinv(y),
            config=config,
        )

    @property
    def tile_steps(self) -> int:
        return network_calls(self.config.times) * len(self.truth)

    def restore(self, denoiser: Denoiser) -> Tensor:
        """Run the sampler."""
        batch, *shape = self.truth.shape
        keys = [(0, 0, i) for i in range(batch)]
        c, h, w = shape
        return sample(
            denoiser,
            self.problem,
            self.config,
            KeyedNoise(0),
            keys,
            (c, h, w),
            self.start,
            self.truth.device,
        )

    @torch.no_grad()
    def evaluate(self, denoiser: Denoiser) -> None:
        """Call the network alone, as often as the sampler does."""
        for t in self.config.schedule.timesteps[::-1].tolist():
            denoiser(self.start, torch.full((len(self.start),), t, device=self.start.device))

    def psnr(self, result: Tensor) -> float:
        """Return the result's PSNR, dB."""
        return float(psnr(result.clamp(-1, 1).cpu().numpy()[0], self.truth.cpu().numpy()[0], 2.0))


def measure(
    device: str,
    names: Sequence[str],
    batches: Sequence[int],
    steps: int,
    repeats: int,
    chosen: Sequence[str] = (),
) -> Iterator[Row]:
    """Yield a row per network, variant and batch; chosen: names of variants, default all that the
    device has.
    """
    for name in names:
        plain, tile = network(name, device)
        preset = FAITHFUL if plain.info.local else PAPER
        flops = _flops(plain, tile, device)
        for variant in variants(device):
            if chosen and variant.name not in chosen:
                continue
            denoiser = variant.wrap(plain)
            rate = _matmul_rate(variant, device) if device != "cpu" else None
            for batch in batches:
                case = BenchCase.build(plain, tile, batch, steps, preset, device)
                try:
                    yield _row(
                        name,
                        variant,
                        plain,
                        denoiser,
                        case,
                        repeats,
                        None if rate is None else flops / rate,
                    )
                except torch.cuda.OutOfMemoryError:
                    torch.cuda.empty_cache()
                    break


def _row(
    name: str,
    variant: Variant,
    plain: Denoiser,
    denoiser: Denoiser,
    case: BenchCase,
    repeats: int,
    seconds_at_peak: float | None,
) -> Row:
    device = case.truth.device
    with variant.context():
        eps_error, psnr_change = _accuracy(plain, denoiser, case, variant)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        bare: list[float] = []
        whole: list[float] = []
        for turn in range(repeats):
            jobs = [(bare, case.evaluate), (whole, case.restore)]
            for kept, work in jobs if turn % 2 == 0 else reversed(jobs):
                kept.append(_seconds(work, denoiser, device))
    ratios = [b / w for b, w in zip(bare, whole, strict=True)]
    speed = case.tile_steps / statistics.median(bare)
    return Row(
        network=name,
        variant=variant.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        tile=case.truth.shape[-1],
        batch=len(case.truth),
        bare=speed,
        sampler=case.tile_steps / statistics.median(whole),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        utilisation=None if seconds_at_peak is None else seconds_at_peak * speed,
        eps_error=eps_error,
        psnr_change=psnr_change,
    )


@torch.no_grad()
def _accuracy(
    plain: Denoiser,
    denoiser: Denoiser,
    case: BenchCase,
    variant: Variant,
) -> tuple[float, float]:
    """Compare one answer and one result with plain float32; these calls are the warm-up too."""
    t = torch.full(
        (len(case.start),), int(case.config.schedule.timesteps[-1]), device=case.start.device
    )
    result = case.restore(denoiser)
    if variant.exact:
        return 0.0, 0.0
    error = float((denoiser(case.start, t) - plain(case.start, t)).abs().max())
    return error, case.psnr(result) - case.psnr(case.restore(plain))


def _seconds(work: Callable[[Denoiser], object], denoiser: Denoiser, device: torch.device) -> float:
    """Time one piece of work: wall clock on a GPU, processor time on a CPU, which other programs do
    not distort.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    _wait(device)
    began = clock()
    work(denoiser)
    _wait(device)
    return clock() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def _flops(denoiser: Denoiser, tile: int, device: str) -> float:
    """Count the floating-point operations of one network call on one tile."""
    x = torch.zeros(1, denoiser.info.channels, tile, tile, device=device)
    with FlopCounterMode(display=False) as counter:
        denoiser(x, torch.zeros(1, dtype=torch.int64, device=device))
    return float(counter.get_total_flops())


def _matmul_rate(variant: Variant, device: str) -> float:
    """Return the FLOP/s of a large matrix product in the variant's precision."""
    with variant.context():
        a = torch.randn(MATMUL_SIDE, MATMUL_SIDE, device=device, dtype=variant.dtype)
        where = torch.device(device)

        def product(_: object) -> Tensor:
            return a @ a

        times = [_seconds(product, None, where) for _ in range(10)]  # type: ignore[arg-type]
    return 2.0 * MATMUL_SIDE**3 / min(times)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row per measurement, as it is made: a table, or JSON lines."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench.sampler_cost", description=__doc__
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--networks", default=",".join(networks()))
    parser.add_argument(
        "--batches", default=",".join(map(str, GPU_BATCHES if gpu else CPU_BATCHES))
    )
    parser.add_argument("--variants", default="", help="default: all that the device has")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args(arguments)
    batches = [int(batch) for batch in given.batches.split(",")]
    chosen = [name for name in given.variants.split(",") if name]
    if given.device == "cpu":
        torch.set_num_threads(1)  # as the workers run
    for row in measure(
        given.device, given.networks.split(","), batches, given.steps, given.repeats, chosen
    ):
        print(json.dumps(asdict(row)) if given.json else text(row), flush=True)


def text(row: Row) -> str:
    """Return a row as a line for people."""
    peak = "" if row.peak_bytes is None else f", peak {row.peak_bytes / 1e9:.2f} GB"
    share = "" if row.utilisation is None else f", {100 * row.utilisation:.0f} % of matmul speed"
    change = (
        ""
        if row.eps_error == 0
        else f", eps differs by {row.eps_error:.1e}, PSNR by {row.psnr_change:+.3f} dB"
    )
    return (
        f"{row.network} {row.variant}, tile {row.tile}, batch {row.batch}: "
        f"sampler {row.sampler:.3f}, bare {row.bare:.3f} tile-steps/s, "
        f"ratio {row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f})"
        f"{peak}{share}{change}"
    )


if __name__ == "__main__":
    main()
