"""What decides a run's pixels: input content, network content, every parameter that matters. Kept
in the journal's header.

A run refuses to resume under another fingerprint and says which field differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernels.denoiser_info import PREDICTOR_WEIGHTS, file_hash
from orchestrator.errors import PlanError
from orchestrator.job.class_guidance import guidance_marks
from orchestrator.job.fields.sections import TaskFields
from orchestrator.job.plan import Plan
from orchestrator.job.regions import region_marks
from orchestrator.job.schema import meant
from orchestrator.job.spec import SamplingSpec
from storage.byte_source import ByteSource, is_url, redact
from storage.errors import FormatError
from storage.readers.reader_registry import ZARR_FILES

# Raised whenever a change of the code changed pixels, until jobs named the rules that decide them
# (orchestrator.job.fields.pixel_rules).
PIXEL_VERSION = 2

# A gigapixel file is not read twice just to name it: this many evenly spaced blocks stand for its
# content.
SAMPLED_BLOCKS = 64
BLOCK_BYTES = 1 << 20

# What of the input specification decides pixels besides the files' content and facts.
INPUT_FIELDS = {
    "channel",
    "crop",
    "extent",
    "fine_mask",
    "keep_mask",
    "keep_nodata",
    "nodata",
    "pad",
    "t",
    "z",
}
INPUT_FIELDS |= {"mask_holes", "mask_white"}

Fingerprint = dict[str, Any]


def fingerprint(plan: Plan, staged: Mapping[str, str] | None = None) -> Fingerprint:
    """Return the fields that decide the pixels, as plain JSON values.

    staged: hashes of inputs of which the run holds copies; they stand where the files themselves
    cannot be read any more.
    """
    known = staged or {}
    spec = plan.spec
    # As plain JSON has it, as the journal keeps it.
    stated = spec.input.model_dump(mode="json")["values"]
    values = None if isinstance(stated, str) else stated
    return {
        "pixel_version": PIXEL_VERSION,
        "input": _hash(spec.input.path, known.get("input")),
        "mask": _hash(spec.input.mask, known.get("mask")),
        "valid_file": _hash(spec.input.valid_file, known.get("valid_file")),
        "input_size": list(spec.input.size or ()),
        "input_bands": spec.input.bands,
        "input_dtype": spec.input.dtype,
        "denoiser": plan.denoiser.content,
        "predictor": predictor_content(spec.sampling),
        "regions": region_marks(plan),
        **guidance_marks(spec.guidance),
        "input_values": values,
        "input_grey_as": spec.input.grey_as,
        "input_bands_as": spec.input.bands_as,
        "operator_content": operator_content(spec.task.operator),
        **{
            f"input.{k}": v
            for k, v in spec.input.model_dump(mode="json").items()
            if k in INPUT_FIELDS
        },
        **{f"task.{k}": v for k, v in task_marks(spec.task).items()},
        **{f"sampling.{k}": v for k, v in spec.sampling.model_dump(mode="json").items()},
        **{f"tiling.{k}": v for k, v in spec.tiling.model_dump(mode="json").items()},
    }


def task_marks(task: TaskFields) -> dict[str, Any]:
    """Return what of a task decides pixels: the noise's level, not where it came from."""
    return task.model_dump(mode="json", exclude={"noise_from"})


def _hash(path: str | None, staged: str | None) -> str | None:
    if path is None:
        return None
    try:
        return content_hash(path)
    except PlanError:
        if staged is None:
            raise
        return staged


def predictor_content(sampling: SamplingSpec) -> str | None:
    """Return the hash of the network that predicts the start, None without one."""
    return file_hash(PREDICTOR_WEIGHTS) if sampling.init == "predicted" else None


def operator_content(name: str | None) -> str | None:
    """Return the hash of the file that defines an operator of the user's own: its code decides
    pixels.
    """
    if name is None:
        return None
    from kernels.user_code import load_object, source_hash

    return source_hash(load_object(name, "--operator"))


def check_same(kept: Fingerprint, now: Fingerprint) -> None:
    """Raise PlanError naming the first field in which a run's kept fingerprint differs from the
    present one.
    """
    for name in sorted(kept.keys() | now.keys()):
        if meant(kept, name) != meant(now, name):
            raise PlanError(
                f"cannot resume: {name} was {kept.get(name)!r} when the run began and is "
                f"{now.get(name)!r} now; "
                "resume without the change, or restore to a new OUT"
            )


def content_hash(name: Path | str) -> str:
    """Hash a file's size and evenly spaced blocks (all of a small file), or a folder's files one by
    one.

    Of a zarr image behind a URL only its metadata is hashed: its chunks cannot be listed
    everywhere.
    """
    digest = hashlib.blake2b(digest_size=16)
    if is_url(name):
        return remote_hash(str(name), digest)
    path = Path(name)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if not path.exists():
        raise PlanError(
            f"input {path} does not exist any more; the run needs it: put it back or restore to "
            "a new OUT"
        )
    for file in files:
        _hash_file(digest, file)
    return digest.hexdigest()


def _hash_file(digest: hashlib.blake2b, path: Path | str) -> None:
    with ByteSource(path) as source:
        digest.update(f"{source.size}\n".encode())
        last = max(source.size - BLOCK_BYTES, 0)
        for offset in sorted({last * i // (SAMPLED_BLOCKS - 1) for i in range(SAMPLED_BLOCKS)}):
            digest.update(source.read(offset, BLOCK_BYTES))


def remote_hash(url: str, digest: hashlib.blake2b) -> str:
    """Hash an object, or the metadata of a zarr node, behind a URL."""
    for name in ("", *(f"/{file}" for file in ZARR_FILES)):
        try:
            _hash_file(digest, url.rstrip("/") + name)
        except FormatError:
            continue
        return digest.hexdigest()
    raise PlanError(f"input {redact(url)} cannot be read any more; the run needs it")
