"""What users write as an option's value, read."""

from __future__ import annotations

import re
from typing import Any

from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import AUTO, Range


def parse_sigma(text: str) -> tuple[float | str, str]:
    """Read a noise level: "25" in grey levels, "10%" of the dtype's range, or "auto"."""
    if text == AUTO:
        return AUTO, "levels"
    number, unit = (text[:-1], "fraction") if text.endswith("%") else (text, "levels")
    try:
        value = float(number)
    except ValueError:
        raise PlanError(
            f"--sigma {text!r} is no noise level; give grey levels (25), a percentage (10%) or auto"
        ) from None
    return (value / 100 if unit == "fraction" else value), unit


def parse_size(text: str, option: str = "--size", example: str = "512x768") -> tuple[int, int]:
    """Read HEIGHTxWIDTH."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise PlanError(f"{option} {text!r} is no size; give HEIGHTxWIDTH, for example {example}")
    return int(match[1]), int(match[2])


def parse_counts(text: str) -> list[int]:
    """Read whole numbers above 0 with commas between them."""
    if re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text) is None:
        raise PlanError(f"--workers {text!r} are no numbers of workers; give for example 1,8,16")
    return [int(count) for count in text.split(",")]


def parse_range(text: str) -> Range | str:
    """Read LOW,HIGH, or a pair for each band, or `auto` or `full`."""
    if text in ("auto", "full"):
        return text
    numbers = text.split(",")
    if len(numbers) <= 2 or len(numbers) % 2:
        return parse_limits(text)
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return tuple(parse_limits(f"{low},{high}") for low, high in pairs)


def parse_limits(text: str) -> tuple[float, float]:
    """Read LOW,HIGH."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise PlanError(
            f"--range {text!r} is no range; give LOW,HIGH of stored values, for example 0,4095"
        ) from None
    return low, high


def parse_channels(text: str) -> tuple[int, ...]:
    """Read N or N,N,..."""
    if re.fullmatch(r"\d+(,\d+)*", text) is None:
        raise PlanError(f"--channel {text!r} names no bands; give numbers from 0, for example 0,2")
    return tuple(int(band) for band in text.split(","))


def parse_regions(texts: list[str]) -> list[dict[str, Any]]:
    """Read Y0,X0,Y1,X1:DENOISER[:CLASS], once per region."""
    regions = []
    for text in texts:
        match = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+):(.+?)(?::(\d+))?", text)
        if match is None:
            raise PlanError(
                f"--region {text!r} is no region; give Y0,X0,Y1,X1:DENOISER or ...:DENOISER:CLASS"
            )
        *box, denoiser, label = match.groups()
        number = None if label is None else int(label)
        regions.append({"box": tuple(map(int, box)), "denoiser": denoiser, "label": number})
    return regions


def parse_travel(text: str) -> tuple[int, int]:
    """Read LENGTH,REPEAT."""
    match = re.fullmatch(r"(\d+),(\d+)", text)
    if match is None:
        raise PlanError(
            f"--travel {text!r} is no time travel; give LENGTH,REPEAT, for example 10,3"
        )
    return int(match[1]), int(match[2])


def parse_pad(text: str) -> tuple[int, ...]:
    """Read TOP,RIGHT,BOTTOM,LEFT."""
    if re.fullmatch(r"\d+,\d+,\d+,\d+", text) is None:
        raise PlanError(
            f"--pad {text!r} is no padding; give TOP,RIGHT,BOTTOM,LEFT in px, for example 0,64,0,64"
        )
    return tuple(int(side) for side in text.split(","))


def parse_arguments(texts: list[str]) -> dict[str, str]:
    """Read KEY=VALUE, several times."""
    for text in texts:
        if "=" not in text:
            raise PlanError(f"--operator-arg {text!r} has no value; write KEY=VALUE")
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def parse_eta(text: str) -> float | str:
    """Read a number or `ddpm`."""
    try:
        return text if text in ("ddpm", "analytic") else float(text)
    except ValueError:
        raise PlanError(
            f"--eta {text!r} is neither a number from 0 to 1 nor ddpm nor analytic"
        ) from None
