"""Which images a batch restores: a pattern, names of files, or a manifest (CSV or JSON lines) with
options for each.

A manifest's columns are named like the options of `restore`, and `input` and `output`. Its paths of
inputs and masks are relative to its own folder, others to the working directory. What a batch is to
restore is kept in its folder as such a manifest, every option filled in and every path absolute.
"""

from __future__ import annotations

import csv
import difflib
import glob
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cluster.options import options as opt
from kernels.denoiser_info import absolute_ref
from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec, RegionSpec
from orchestrator.run.many_images import Image
from storage.byte_source import is_url, located, redact

SUFFIXES = {".csv", ".jsonl", ".ndjson"}
# Options of the whole batch, which an image cannot have for itself.
SHARED = ("executor", "workers", "batch", "address", "drain_seconds")
# The command line's names of options whose fields are called otherwise.
_ALIASES = {
    "batch_size": "batch",
    "input": "path",
    "class": "label",
    "range": "value_range",
    "operator_arg": "operator_args",
}
KNOWN = {"input", "output", "job"} | (
    set(opt.OPTIONS) - set(opt.RENAMED) - set(SHARED) - {"path", "output"}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image as a manifest says it: options by their field's name, `path` and `output` among
    them.
    """

    where: str
    """Place in a manifest, for messages."""
    given: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the name of its output in the batch's folder."""
        return str(self.given["output"])

    def sharing(self, shared: dict[str, Any]) -> Entry:
        """Return it with the options of the whole batch."""
        return Entry(self.where, {**self.given, **shared})

    def spec(self, begun: JobSpec | None = None) -> JobSpec:
        """Return the job, or what the options make of one that was begun; raises PlanError naming
        the place.
        """
        given = {name: value for name, value in self.given.items() if name not in ("job", "output")}
        base = begun or (
            JobSpec.load(Path(self.given["job"])) if "job" in self.given else JobSpec()
        )
        try:
            return opt.job_spec(base, given)
        except PlanError as err:
            raise PlanError(f"{self.where}: {err}") from None

    def image(self, folder: Path) -> Image:
        """Return the image of a batch in `folder`."""
        root = folder / self.name

        def spec(begun: JobSpec | None) -> JobSpec:
            return self.spec(begun).model_copy(update={"output": str(root)})

        return Image(self.name, root, self.given["path"], spec)


def read_entries(sources: Sequence[str], given: dict[str, Any]) -> list[Entry]:
    """Return the images that a command line names; given: options for all of them.

    Raises PlanError, with the place, for what no image can be restored with.
    """
    manifests = [source for source in sources if Path(source).suffix.lower() in SUFFIXES]
    if manifests and len(sources) > 1:
        raise PlanError(f"{manifests[0]} is a manifest; give it alone, or name images")
    rows = _read_manifest(Path(manifests[0])) if manifests else _expand(sources)
    entries = [Entry(entry.where, {**given, **entry.given}) for entry in rows]
    _check_names(entries)
    return [_anchored(entry) for entry in entries]


def manifest_text(entries: Sequence[Entry]) -> str:
    """Return images as a manifest, JSON lines."""
    lines = (
        json.dumps({_column(name): value for name, value in entry.given.items()})
        for entry in entries
    )
    return "".join(f"{line}\n" for line in lines)


def _column(name: str) -> str:
    return "input" if name == "path" else name


def kept_images(path: Path) -> dict[str, str]:
    """Return the inputs of a manifest that was kept, by their outputs' names."""
    return {entry.name: entry.given["path"] for entry in _read_manifest(path)}


def _anchored(entry: Entry) -> Entry:
    """Return it with the paths of all its files made absolute, those that its job file names among
    them.

    A batch may be gone on with from any folder. Raises PlanError, with the place, for options that
    cannot be.
    """
    spec = entry.spec()
    given = dict(entry.given)
    if "job" in given:
        given["job"] = located(given["job"])
    if spec.input.mask is not None:
        given["mask"] = located(spec.input.mask)
    if spec.guidance.classifier is not None:
        given["classifier"] = located(spec.guidance.classifier)
    if spec.task.blur is not None:
        from orchestrator.job.fields.blur import absolute_blur

        given["blur"] = absolute_blur(spec.task.blur)
    try:
        if (denoiser := absolute_ref(spec.denoiser)) != spec.denoiser:
            given["denoiser"] = denoiser
        if "region" in given:
            given["region"] = [_region(region) for region in spec.regions]
    except ValueError as err:
        raise PlanError(f"{entry.where}: {err}") from None
    return Entry(entry.where, given)


def _region(region: RegionSpec) -> str:
    """Return a region as the command line has it, the path of its network absolute."""
    label = "" if region.label is None else f":{region.label}"
    return f"{','.join(map(str, region.box))}:{absolute_ref(region.denoiser)}{label}"


def _expand(sources: Sequence[str]) -> Iterator[Entry]:
    """Yield the images that names and patterns stand for."""
    for source in sources:
        paths = [source] if _exists(source) else sorted(glob.glob(source, recursive=True))
        if not paths:
            raise PlanError(
                f"{source}: no such image; give a manifest (.csv, .jsonl), images, or a pattern "
                "in quotes"
            )
        images = [path for path in paths if _may_be_image(path)]
        if not images:
            folder = redact(source).rstrip("/")
            raise PlanError(
                f"{folder}: no image but a folder; give a pattern in quotes, for example "
                f'"{folder}/*.tif"'
            )
        for path in images:
            base = "" if path == source else _fixed(source)
            yield Entry(path, {"path": located(path), "output": _name(path, base)})


def _exists(source: str) -> bool:
    return is_url(source) or Path(source).exists()


def _may_be_image(path: str) -> bool:
    """Tell a file, a URL or a zarr folder from a folder of images."""
    return is_url(path) or Path(path).suffix == ".zarr" or not Path(path).is_dir()


def _fixed(pattern: str) -> str:
    """Return the folders of a pattern before its first wildcard."""
    parts = Path(pattern).parts
    wild = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return str(Path(*parts[:wild]))


def _name(path: str, base: str) -> str:
    """Return the output's name: the path below `base`, or the last part alone, ending in .zarr."""
    plain = PurePosixPath(path.partition("?")[0] if is_url(path) else path)
    below = PurePosixPath(plain.relative_to(base)) if base else PurePosixPath(plain.name)
    return str(below.with_suffix(".zarr"))


def _read_manifest(path: Path) -> Iterator[Entry]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise PlanError(f"cannot read {path}: {err.strerror}") from None
    except UnicodeDecodeError:
        raise PlanError(f"{path}: a manifest is UTF-8 text") from None
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    empty = True
    for where, row in rows:
        empty = False
        yield _entry(where, row, path.parent)
    if empty:
        raise PlanError(
            f"{path} names no image; a CSV manifest has a line of column names, `input` among them"
        )


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    for row in reader:
        where = f"{path} line {reader.line_num}"
        if None in row or None in row.values():
            raise PlanError(f"{where} has another number of values than the first line has columns")
        yield where, {key.strip(): value.strip() for key, value in row.items() if value.strip()}


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path} line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as err:
            raise PlanError(f"{where} is not JSON: {err}") from None
        if not isinstance(row, dict):
            raise PlanError(
                f'{where}: give an object, for example {{"input": "a.png", "scale": 2}}'
            )
        yield where, {str(key): value for key, value in row.items() if value is not None}


def _entry(where: str, row: dict[str, Any], folder: Path) -> Entry:
    """Return the image of a manifest's row; folder: the manifest's, in which its paths begin."""
    given: dict[str, Any] = {}
    for column, value in row.items():
        name = _option_name(where, column)
        given[name] = _plain(where, column, value)
    if "path" not in given:
        raise PlanError(f"{where} has no input")
    for name in {"path", "mask"} & given.keys():
        path = given[name]
        given[name] = located(path if is_url(path) else folder / path)
    given["output"] = given.get("output") or _name(given["path"], "")
    return Entry(where, given)


def _option_name(where: str, column: str) -> str:
    """Return the option that a column is; raises PlanError for one of the whole batch, or none."""
    plain = column.removeprefix("--").replace("-", "_")
    name = _ALIASES.get(plain, plain)
    if name in SHARED:
        raise PlanError(f"{where}: {column} is the whole batch's; give it on the command line")
    if plain in KNOWN or plain in _ALIASES:
        return name
    near = difflib.get_close_matches(plain, [*KNOWN, *_ALIASES], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise PlanError(f"{where}: unknown column {column!r}{hint}")


def _plain(where: str, column: str, value: Any) -> Any:
    """Return a value as the command line would have it: text, a number, true or false, or a list of
    text.
    """
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return value
    if not isinstance(value, str | int | float | bool):
        raise PlanError(
            f"{where}: {column} is no text, number, true or false; write it as on the command line"
        )
    name = _ALIASES.get(column.replace("-", "_"), column.replace("-", "_"))
    if name in ("region", "operator_args"):
        return str(value).split()
    option = opt.OPTIONS.get(name)
    return str(value) if name in ("job", "sigma") or (option and option.read) else value


def _check_names(entries: Sequence[Entry]) -> None:
    """Raise PlanError for outputs outside the batch's folder, and for one on or in another."""
    places: dict[str, str] = {}
    for entry in entries:
        if not _is_name(entry.name):
            raise PlanError(
                f"{entry.where}: output {entry.name!r} is no name of a folder below OUTDIR"
            )
        if entry.name in places:
            raise PlanError(
                f"{entry.where}: output {entry.name} is that of {places[entry.name]} too; name "
                "outputs in a manifest"
            )
        places[entry.name] = entry.where

    for entry in entries:
        for parent in PurePosixPath(entry.name).parents:
            around = places.get(str(parent))
            if around is not None:
                raise PlanError(f"{entry.where}: output {entry.name} lies within that of {around}")


def _is_name(output: str) -> bool:
    """Tell whether an output lies below OUTDIR, and on nothing that the batch keeps there."""
    parts = PurePosixPath(output).parts
    if not parts or output.startswith("/") or ".." in parts:
        return False
    kept = parts[0].startswith(".gigarestore") or re.fullmatch(r"batch.*\.jsonl", output)
    return not kept
