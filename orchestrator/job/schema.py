"""Versions of the job file, so that a newer program reads what an older one has written.

A file says `schema`, and in `needs` the first version of gigarestore that reads it; one without is
version 0. Whoever adds a field that a resolved job must say raises SCHEMA, and states in CAME_LATER
what runs did before there was one. Whoever takes a field away names it in RETIRED.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from orchestrator.errors import PlanError
from orchestrator.job.fields.pixel_rules import FIRST
from orchestrator.job.fields.sections import FULL

SCHEMA = 1
NEEDS = "0.2.0"

CAME_LATER: Mapping[str, Any] = MappingProxyType(
    {
        "sampling.ensemble": "1",
        "sampling.guide": "constraint",
        "sampling.clip": True,
        "sampling.ddnm_plus": "projector",
        "sampling.pins": "replace",
        "sampling.pixel_rules": FIRST,
        "input.values": FULL,
    }
)
"""SECTION.FIELD -> what a resolved job means that does not say it."""
RETIRED = ("run.batching",)
"""Fields that change nothing any more. `run.batching` said how tiles shared a worker's batches,
which never reached a pixel (docs/decisions/continuous-batching.md).
"""


def stamped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a job file with its version."""
    return {"schema": SCHEMA, "needs": NEEDS, **values}


def read_values(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a job file's values without its version and without what is retired.

    Raises PlanError for a file of a later version, naming the program that reads it.
    """
    schema = values.get("schema", 0)
    if not isinstance(schema, int) or schema < 0:
        raise PlanError(f"{where}: schema = {schema!r} is no version; leave it out")
    if schema > SCHEMA:
        needed = values.get("needs", "")
        program = f"gigarestore {needed} or later" if needed else "a later gigarestore"
        raise PlanError(
            f"{where} has schema {schema}, this version reads up to {SCHEMA}: use {program}"
        )
    kept = {name: value for name, value in values.items() if name not in ("schema", "needs")}
    for place in RETIRED:
        section, field = place.split(".")
        if isinstance(kept.get(section), dict):
            kept[section] = {k: v for k, v in kept[section].items() if k != field}
    return kept


def with_earlier_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved job's values with what it meant where a later version says more, in its
    regions too.
    """
    filled = dict(values)
    for place, value in CAME_LATER.items():
        section, field = place.split(".")
        filled[section] = {field: value, **filled.get(section, {})}
    regions = filled.get("regions")
    if regions:
        filled["regions"] = [
            {**region, **{k: v for k, v in with_earlier_defaults(region).items() if k in region}}
            for region in regions
        ]
    return filled


def meant(values: Mapping[str, Any], name: str) -> Any:
    """Return what a resolved job's SECTION.FIELD means: what it says, or what came before it."""
    value = values.get(name)
    return CAME_LATER.get(name) if value is None else value
