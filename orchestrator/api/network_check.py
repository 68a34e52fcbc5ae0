"""check: is a network read rightly? It is tried on noised windows of an image before a run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from orchestrator.api.array_input import ImageInput, array_image, is_file_name
from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import InputSpec
from orchestrator.planning.network_trial import NetworkCheck, check_network
from storage.errors import FormatError


def check(
    denoiser: str,
    image: ImageInput,
    *,
    label: int | None = None,
    axes: str | None = None,
    value_range: tuple[float, float] | None = None,
    channel: tuple[int, ...] | None = None,
    device: str = "cpu",
) -> NetworkCheck:
    """Try a network on noised windows of an image in every way in which it may be read.

    denoiser: a reference as of `restore`. image: a path, a URL, or an array of which `axes` says
    the axes as in `restore`; it should be sharp, and of the kind that the network was trained on.
    label: class of a conditional network. value_range: black and white of the image, found where
    they are not given. channel: which bands of it. The result says whether the stated reading
    denoises (`denoises`), what every reading leaves of the noise (`readings`), and what to do
    (`line`). Raises PlanError on one line where the network or the image cannot be used.

    >>> import gigarestore as gr, numpy as np
    >>> ramps = np.add.outer(np.arange(64) % 32, np.arange(64) % 16).astype("uint8") * 5
    >>> gr.check("builtin", ramps).denoises
    True
    """
    source = InputSpec(values=value_range, channel=channel)
    try:
        if is_file_name(image):
            given = source.model_copy(update={"path": os.fspath(image)})
            return check_network(denoiser, given, label, device)
        with tempfile.TemporaryDirectory(prefix="gigarestore-") as folder:
            path = Path(folder) / "image.zarr"
            array_image(image, axes).stage(path)
            given = source.model_copy(update={"path": str(path)})
            return check_network(denoiser, given, label, device)
    except FormatError as err:
        raise PlanError(str(err)) from None
