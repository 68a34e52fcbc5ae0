"""Errors after which a device is of no more use to the process that saw them."""

from __future__ import annotations

import torch

# How CUDA's and cuDNN's errors begin where torch raises them as plain RuntimeErrors.
_LOST = ("CUDA error", "cuDNN error", "CUBLAS error", "HIP error", "device-side assert")


def device_lost(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, leaves the device's context broken: memory running
    out does not.

    After an illegal access or a failed assertion on the device every later call in this process
    fails too.
    """
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return False
        if isinstance(error, torch.AcceleratorError):
            return True
        if isinstance(error, RuntimeError) and any(mark in str(error) for mark in _LOST):
            return True
        error = error.__cause__ or error.__context__
    return False
