"""The settings of a submission as options of `submit`: flag, kind and meaning of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import typer

from cluster.options.signature import Command, with_parameters
from cluster.submission.settings import SubmissionSettings

Kind = Literal["text", "number", "switch", "texts"]

KINDS: dict[str, Any] = {
    "text": str | None,
    "number": int | None,
    "switch": bool | None,
    "texts": list[str] | None,
}


class SettingOption(NamedTuple):
    """One option of `submit`."""

    flag: str
    kind: Kind
    text: str
    default: str = ""
    """In words, where the setting's own default does not say it."""

    def annotation(self, default: Any) -> Any:
        """Return what typer makes of it; default: that of the setting."""
        shown = self.default or ("" if default in (None, ()) else str(default))
        option = typer.Option(self.flag, help=self.text, show_default=shown or False)
        return Annotated[KINDS[self.kind], option]


def _common() -> dict[str, SettingOption]:
    """Return the options that every backend has."""
    return {
        "submit.backend": SettingOption("--backend", "text", "slurm, ray (Jobs API) or kuberay."),
        "submit.name": SettingOption("--name", "text", "Name in the queue.", "after OUT"),
        "submit.nodes": SettingOption("--nodes", "number", "Nodes."),
        "submit.min_nodes": SettingOption(
            "--min-nodes", "number", "Nodes that are enough to begin.", "all"
        ),
        "submit.cpus": SettingOption("--cpus", "number", "Cores per node."),
        "submit.gpus": SettingOption("--gpus", "number", "GPUs per node."),
        "submit.memory": SettingOption("--memory", "text", "Memory per node."),
        "submit.time": SettingOption(
            "--time", "text", "Limit of one attempt: minutes or D-HH:MM:SS."
        ),
        "submit.env": SettingOption("--env", "texts", "NAME=VALUE for the job; may be repeated."),
        "submit.setup": SettingOption(
            "--setup", "texts", "slurm: shell line to run first; may be repeated."
        ),
        "submit.python": SettingOption("--python", "text", "Python on the nodes."),
        "submit.on_node_fail": SettingOption(
            "--on-node-fail", "text", "slurm: continue or requeue."
        ),
        "submit.restarts": SettingOption("--restarts", "number", "How often it may begin again."),
        "submit.grace": SettingOption("--grace", "number", "Seconds to stop in before the limit."),
    }


def _slurm() -> dict[str, SettingOption]:
    return {
        "slurm.partition": SettingOption("--partition", "text", "slurm: partition."),
        "slurm.account": SettingOption("--account", "text", "slurm: account."),
        "slurm.qos": SettingOption("--qos", "text", "slurm: quality of service."),
        "slurm.constraint": SettingOption("--constraint", "text", "slurm: node features."),
        "slurm.reservation": SettingOption("--reservation", "text", "slurm: reservation."),
        "slurm.shares": SettingOption(
            "--shares",
            "number",
            "slurm: tasks of an array, each with its share of a batch.",
            "one job",
        ),
        "slurm.options": SettingOption(
            "--sbatch-option", "texts", "slurm: --name=value for sbatch; may be repeated."
        ),
    }


def _ray() -> dict[str, SettingOption]:
    return {
        "ray.dashboard": SettingOption("--dashboard", "text", "ray: address, http://HOST:8265."),
        "ray.token_file": SettingOption(
            "--token-file", "text", "ray: file with the cluster's token."
        ),
        "ray.ship": SettingOption(
            "--ship/--no-ship", "switch", "ray: send this version's code along.", "yes"
        ),
    }


def _kuberay() -> dict[str, SettingOption]:
    return {
        "kuberay.namespace": SettingOption("--namespace", "text", "kuberay: namespace."),
        "kuberay.image": SettingOption("--image", "text", "kuberay: image with gigarestore."),
        "kuberay.service_account": SettingOption(
            "--service-account", "text", "kuberay: service account."
        ),
        "kuberay.claims": SettingOption(
            "--claim", "texts", "kuberay: CLAIM:/MOUNT; may be repeated."
        ),
        "kuberay.secrets": SettingOption(
            "--secret", "texts", "kuberay: NAME=SECRET:KEY; may be repeated."
        ),
        "kuberay.copy_to": SettingOption(
            "--copy-to", "text", "kuberay: URL for the finished image, s3://..."
        ),
        "kuberay.queue": SettingOption("--queue", "text", "kuberay: Kueue's local queue."),
        "kuberay.tolerations": SettingOption(
            "--toleration", "texts", "kuberay: KEY[=VALUE][:EFFECT]; may repeat."
        ),
        "kuberay.node_selector": SettingOption(
            "--node-selector", "texts", "kuberay: KEY=VALUE; may be repeated."
        ),
        "kuberay.ray_version": SettingOption(
            "--ray-version", "text", "kuberay: Ray's version in the image."
        ),
    }


SETTING_OPTIONS = {**_common(), **_slurm(), **_ray(), **_kuberay()}
"""By section.key of the settings; those without an option here are set in a file."""


def takes_settings(command: Command) -> Command:
    """Give a command the options of SETTING_OPTIONS; `given_settings` reads them from `**given`."""
    defaults = SubmissionSettings().model_dump()
    annotations = {}
    for key, option in SETTING_OPTIONS.items():
        section, _, field = key.partition(".")
        annotations[_parameter(key)] = option.annotation(defaults[section][field])
    return with_parameters(command, annotations)


def given_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was given of a command's settings, by section.key; None where it was not."""
    return {key: given[_parameter(key)] for key in SETTING_OPTIONS}


def _parameter(key: str) -> str:
    return key.replace(".", "_")
