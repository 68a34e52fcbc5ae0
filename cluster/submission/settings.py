"""Settings of a submission, and where each came from: flag, environment, project file, user file,
default.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from orchestrator.errors import PlanError

PROJECT_FILE = "gigarestore.toml"
PREFIX = "GIGARESTORE_"
Count = Annotated[int, Field(ge=1, le=100_000)]


class _SettingsSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _printable(cls, value: Any) -> Any:
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(text, str) and not text.isprintable():
                raise ValueError("may hold no line breaks or control characters")
        return value


class Common(_SettingsSection):
    """What every backend needs to know."""

    backend: Literal["slurm", "ray", "kuberay"] | None = None
    name: str | None = None
    """What the job is called in the queue; None: after OUT."""
    nodes: Count = 1
    min_nodes: Count | None = None
    """Nodes that are enough to begin; None: all."""
    cpus: Count = 4
    """Cores per node."""
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs per node."""
    memory: str = "16G"
    """Memory per node."""
    time: str = "24:00:00"
    """Time limit of one attempt."""
    env: tuple[str, ...] = ()
    """NAME=VALUE for the job's environment."""
    setup: tuple[str, ...] = ()
    """Shell lines to run first (SLURM), such as `module load python`; what they export reaches
    every node.
    """
    python: str | None = None
    """Python on the nodes; None: this one (SLURM), `python` (Ray, KubeRay)."""
    on_node_fail: Literal["continue", "requeue"] = "continue"
    restarts: Annotated[int, Field(ge=0, le=1000)] = 10
    """How often a job that the time limit or a dead node has ended may begin again."""
    grace: Annotated[int, Field(ge=1, le=3600)] = 180
    """Seconds that a run has to stop, before the time limit and after cancel."""

    @field_validator("memory")
    @classmethod
    def _memory(cls, text: str) -> str:
        mebibytes(text)
        return text

    @field_validator("time")
    @classmethod
    def _time(cls, text: str) -> str:
        seconds(text)
        return text

    @field_validator("env")
    @classmethod
    def _env(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", text) is None:
                raise ValueError(f"{text.partition('=')[0]!r} is no variable; write NAME=VALUE")
        return texts


class Slurm(_SettingsSection):
    """Options of sbatch."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    shares: Count | None = None
    """Of a batch: tasks of an array, each with its share of the images; None: one job for all of
    them.
    """
    options: tuple[str, ...] = ()
    """Further options of sbatch, --name or --name=value."""

    @field_validator("options")
    @classmethod
    def _options(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if re.fullmatch(r"--[a-z][a-z-]*(=.*)?", text) is None:
                raise ValueError(f"{text!r} is no option of sbatch; write --name or --name=value")
        return texts


class RayJobs(_SettingsSection):
    """A running Ray cluster."""

    dashboard: str = "http://127.0.0.1:8265"
    token_file: str | None = None
    """File with the cluster's token; None: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, then
    ~/.ray/auth_token.
    """
    ship: bool = True
    """Send this version of gigarestore along; no: the cluster's own is used."""

    @field_validator("dashboard")
    @classmethod
    def _url(cls, text: str) -> str:
        if re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", text) is None:
            raise ValueError("is no address; write http://HOST:8265")
        return text.rstrip("/")


class KubeRay(_SettingsSection):
    """A Kubernetes cluster with the KubeRay operator."""

    namespace: str = "default"
    image: str | None = None
    """Image with gigarestore and its Ray, by digest where results must be repeatable."""
    service_account: str | None = None
    claims: tuple[str, ...] = ()
    """CLAIM:/MOUNT, persistent volume claims that hold IN and OUT."""
    secrets: tuple[str, ...] = ()
    """NAME=SECRET:KEY, environment variables out of secrets."""
    queue: str | None = None
    """Kueue's local queue."""
    tolerations: tuple[str, ...] = ()
    """KEY or KEY=VALUE, optionally :EFFECT."""
    node_selector: tuple[str, ...] = ()
    """KEY=VALUE."""
    ray_version: str | None = None
    """Version of Ray in the image; None: the installed one."""
    copy_to: str | None = None
    """URL of a store for the finished image, s3://BUCKET/PREFIX."""
    scratch: str = "20Gi"
    """Room of a pod's own /tmp."""
    shared_memory: str = "2Gi"
    """Size of /dev/shm, counted inside the pod's memory."""

    @field_validator("claims")
    @classmethod
    def _claims(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?:/.*", text) is None:
                raise ValueError(f"{text!r} is no claim; write CLAIM:/MOUNT")
        return texts

    @field_validator("secrets")
    @classmethod
    def _secrets(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=[a-z0-9.-]+:[A-Za-z0-9._-]+", text) is None:
                raise ValueError("a secret is written NAME=SECRET:KEY, never with its value")
        return texts

    @field_validator("node_selector")
    @classmethod
    def _selector(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if re.fullmatch(r"[^=\s]+=[^=\s]*", text) is None:
                raise ValueError(f"{text!r} is no label; write KEY=VALUE")
        return texts


class SubmissionSettings(_SettingsSection):
    """All of them."""

    submit: Common = Common()
    slurm: Slurm = Slurm()
    ray: RayJobs = RayJobs()
    kuberay: KubeRay = KubeRay()


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and, per section.key, who said so."""

    settings: SubmissionSettings
    origins: dict[str, str]


def load(flags: Mapping[str, Any], directory: Path, environment: Mapping[str, str]) -> Loaded:
    """Return the settings; `flags` by section.key, None where not given. Raises PlanError naming
    who said what is wrong.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in SubmissionSettings.model_fields}
    origins: dict[str, str] = {}
    project = next(
        (p / PROJECT_FILE for p in [directory, *directory.parents] if (p / PROJECT_FILE).is_file()),
        None,
    )
    for what, path in (("user file", _user_file(environment)), ("project file", project)):
        if path is not None and path.is_file():
            _take(values, origins, _read(path), f"{what} {path}")
    for key in keys():
        variable = PREFIX + key.replace(".", "_").upper()
        if variable in environment:
            text = environment[variable]
            value: Any = [part for part in text.split(",") if part] if _is_list(key) else text
            _take(values, origins, {key: value}, f"environment {variable}")
    _take(
        values,
        origins,
        {key: value for key, value in flags.items() if value not in (None, [])},
        "flag",
    )
    try:
        settings = SubmissionSettings.model_validate(values)
    except ValidationError as err:
        problem = err.errors()[0]
        key = ".".join(map(str, problem["loc"][:2]))
        message = problem["msg"].removeprefix("Value error, ")
        raise PlanError(
            f"{key} = {problem['input']!r} ({origins.get(key, 'default')}): {message}"
        ) from None
    return Loaded(settings, origins)


def keys() -> list[str]:
    """Return every section.key."""
    sections: dict[str, type[BaseModel]] = {
        "submit": Common,
        "slurm": Slurm,
        "ray": RayJobs,
        "kuberay": KubeRay,
    }
    return [f"{section}.{key}" for section, model in sections.items() for key in model.model_fields]


def mebibytes(text: str) -> int:
    """Return an amount of memory in MiB: 16G, 16GiB, 16000M; a bare number is MiB."""
    match = re.fullmatch(r"(\d+)(?:([MGT])(?:i?B?)?)?", text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"{text!r} is no amount of memory; write for example 16G")
    return int(match[1]) * {"M": 1, "G": 1024, "T": 1024**2}[match[2] or "M"]


def seconds(text: str) -> int:
    """Return a time limit in seconds: MINUTES, HH:MM:SS or D-HH:MM:SS."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):(\d\d):(\d\d)|(\d+))", text)
    if match is None:
        raise ValueError(f"{text!r} is no time; write minutes, HH:MM:SS or D-HH:MM:SS")
    days, hours, minutes, rest, plain = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest + plain * 60
    if total < 60:
        raise ValueError(f"{text!r} is less than a minute")
    return total


def _is_list(key: str) -> bool:
    section, _, field = key.partition(".")
    return isinstance(getattr(getattr(SubmissionSettings(), section), field), tuple)


def _take(
    values: dict[str, dict[str, Any]], origins: dict[str, str], given: dict[str, Any], origin: str
) -> None:
    known = keys()
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise PlanError(
                f"unknown setting {key!r} "
                f"({origin}){f'; did you mean {near[0]!r}?' if near else ''}"
            )
        section, _, field = key.partition(".")
        values[section][field] = value
        origins[key] = origin


def _read(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise PlanError(f"cannot read the settings in {path}: {err}") from None
    settings = {}
    for section, entries in document.items():
        if not isinstance(entries, dict):
            raise PlanError(
                f"{path}: {section!r} stands outside of a section; sections: "
                f"{', '.join(SubmissionSettings.model_fields)}"
            )
        settings.update({f"{section}.{key}": value for key, value in entries.items()})
    return settings


def _user_file(environment: Mapping[str, str]) -> Path:
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(
        environment.get("HOME", os.path.expanduser("~")), ".config"
    )
    return Path(home) / "gigarestore" / "config.toml"
