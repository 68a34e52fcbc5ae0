"""A step that does not fit into memory is taken in smaller parts, for as long as one tile fits.

    state, most = advance_within(denoiser, state, config, noise, most)

A tile's result depends neither on the parts nor on who else is in them, on CPU bit for bit.
"""

from __future__ import annotations

import torch

from kernels.denoisers.denoiser import Denoiser
from kernels.noise import NoiseSource
from kernels.sampling.sampler import SamplerConfig, SamplerState, advance

# What torch says on the CPU, as a RuntimeError, where the system refuses memory.
_CPU_REFUSAL = "DefaultCPUAllocator"


def advance_within(
    denoiser: Denoiser,
    state: SamplerState,
    config: SamplerConfig,
    noise: NoiseSource,
    most: int,
) -> tuple[SamplerState, int]:
    """Take every tile one step in parts of at most `most` tiles, halved for as long as the memory
    does not suffice.

    Returns the state and the largest part that fitted, at most `most`. Raises what the device
    raised when a single tile does not fit. An attempt leaves the state as it was, so the bytes do
    not depend on how often it was halved.
    """
    parts: list[SamplerState] = []
    begin = 0
    count = len(state.keys)
    while begin < count:
        rows = range(begin, min(begin + most, count))
        part = state if len(rows) == count else state.select(rows)
        advanced = _try(denoiser, part, config, noise)
        if advanced is None:
            del part
            release_memory(state.x.device)
            most = max(len(rows) // 2, 1)
            continue
        parts.append(advanced)
        begin = rows.stop
    return parts[0] if len(parts) == 1 else SamplerState.cat(parts), most


def _try(
    denoiser: Denoiser,
    state: SamplerState,
    config: SamplerConfig,
    noise: NoiseSource,
) -> SamplerState | None:
    """Advance; None when the memory did not suffice for several tiles. On return no frame holds
    their tensors.
    """
    try:
        return advance(denoiser, state, config, noise)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as err:
        if len(state.keys) == 1 or not out_of_memory(err):
            raise
    return None


def out_of_memory(err: BaseException) -> bool:
    """Tell whether an error says that memory, of the device or of the host, did not suffice."""
    return isinstance(err, torch.OutOfMemoryError | MemoryError) or _CPU_REFUSAL in str(err)


def release_memory(device: torch.device) -> None:
    """Give what the allocator caches back to the device, where it keeps such a cache."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
