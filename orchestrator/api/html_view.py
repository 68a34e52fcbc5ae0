"""Input and restoration one upon the other under a slider: HTML for a notebook that needs nothing
else.

Pictures are PNGs as data URIs, at most SIDE px along a side: the whole image, or its centre.
"""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.job.plan import Plan
from orchestrator.job.value_range import Values
from orchestrator.measurement.input_file import open_file
from orchestrator.planning.resolve import load_plan
from orchestrator.run_folder import RunDir
from storage.box import Box
from storage.readers.reader_registry import open_image

# Most px of the restoration that are shown, along a side: a cell of a notebook holds it, and the
# snippet stays below 2 MB.
SIDE = 512
# What stands where the input has no pixels (outpainting), of 255.
NOWHERE = 128

_PAGE = """<figure style="margin:0;display:inline-block">
<div style="position:relative;width:{width}px;max-width:100%;--at:50%">
<img src="{restored}" alt="restored" style="display:block;width:100%;image-rendering:pixelated">
<img src="{given}" alt="input" style="position:absolute;left:0;top:0;width:100%;height:100%;\
image-rendering:pixelated;clip-path:inset(0 calc(100% - var(--at)) 0 0)">
<div style="position:absolute;top:0;bottom:0;left:var(--at);border-left:2px solid #fff;\
box-shadow:0 0 2px #000"></div>
<input type="range" min="0" max="100" value="50" aria-label="input on the left, restored on the \
right" oninput="this.parentNode.style.setProperty('--at', this.value + '%')" style="position:\
absolute;left:0;top:0;width:100%;height:100%;margin:0;opacity:0;cursor:ew-resize">
</div>
<figcaption>{caption}</figcaption>
</figure>"""
_ALONE = """<figure style="margin:0;display:inline-block">
<img src="{restored}" alt="restored" style="display:block;width:{width}px;max-width:100%;\
image-rendering:pixelated">
<figcaption>{caption}</figcaption>
</figure>"""


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The shown part of the output, and the input under it."""

    box: Box
    restored: NDArray[np.uint8]
    given: NDArray[np.uint8] | None
    """In the input's own pixels; None where there is no picture."""


def comparison_html(run: RunDir) -> str:
    """Return the snippet for a finished run; raises FormatError where it is damaged."""
    plan = load_plan(run)
    shown = _compare(run, plan)
    whole = shown.box.shape == (plan.height, plan.width)
    part = "" if whole else f", its centre of {shown.box.height} x {shown.box.width} px"
    sides = "" if shown.given is None else "input on the left, restored on the right: "
    caption = f"{sides}{plan.height} x {plan.width} px, {plan.spec.task.name}{part}"
    page = _ALONE if shown.given is None else _PAGE
    return page.format(
        width=shown.box.width,
        restored=_data_uri(shown.restored),
        given="" if shown.given is None else _data_uri(shown.given),
        caption=html.escape(caption),
    )


def _compare(run: RunDir, plan: Plan) -> _Comparison:
    box = _centre(plan)
    image = open_image(run.root)
    restored = _picture(image.read(box), plan.values.linear)
    drawn = plan.spec.input.path is None or not plan.task.picture
    return _Comparison(box, restored, None if drawn else _input_under(run, plan, box))


def _centre(plan: Plan) -> Box:
    """Return the part that is shown: whole measurement pixels, in px of the output."""
    scale = plan.task.scale
    spans = []
    for length in (plan.height, plan.width):
        size = min(length, SIDE // scale * scale)
        first = (length - size) // 2 // scale * scale
        spans.append((first, first + size))
    (y0, y1), (x0, x1) = spans
    return Box(y0, x0, y1, x1)


def _input_under(run: RunDir, plan: Plan, box: Box) -> NDArray[np.uint8]:
    """Return the input's pixels under a box of the output, NOWHERE where it has none."""
    spec = plan.spec.input
    scale = plan.task.scale
    top, _, _, left = spec.pad or (0, 0, 0, 0)
    window = Box(box.y0 // scale, box.x0 // scale, -(-box.y1 // scale), -(-box.x1 // scale))
    window = window.shift(-top, -left)
    reader = open_file(spec, run.staged_input)
    inside = window.clip(reader.info.height, reader.info.width)
    picture = np.full((*window.shape, 3), NOWHERE, np.uint8)
    if not inside.empty:
        pixels = _picture(reader.read(inside), plan.values.linear)
        picture[inside.shift(-window.y0, -window.x0).slices()] = pixels
    reader.close()
    return picture


def _picture(pixels: NDArray[Any], values: Values) -> NDArray[np.uint8]:
    """Return stored pixels (C, h, w) as RGB (h, w, 3): three bands as they are, else the first."""
    bands = pixels[:3] if len(pixels) >= 3 else pixels[:1].repeat(3, axis=0)
    finite = np.where(np.isfinite(bands), bands, np.asarray(values.low, bands.dtype))
    unit = values.first(3).to_unit(finite) if len(pixels) >= 3 else values.first(1).to_unit(finite)
    grey = np.rint((unit + 1.0) * 127.5).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(grey.transpose(1, 2, 0))


def _data_uri(picture: NDArray[np.uint8]) -> str:
    import imagecodecs

    png = bytes(imagecodecs.png_encode(picture))
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
