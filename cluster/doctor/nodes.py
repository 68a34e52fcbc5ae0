"""Checks of a Ray cluster: whether it answers, and what `doctor` finds on each of its nodes,
compared with here.
"""

from __future__ import annotations

import json
from pathlib import Path

from cluster.doctor.check import Check
from orchestrator.errors import PlanError, RunError

# Signatures of requests to object stores are refused beyond 15 minutes; logs mislead much earlier,
# seconds.
WORST_SKEW = 300.0
NOTICED_SKEW = 2.0
# Importing torch from a busy network disk takes its time, seconds.
ANSWER_SECONDS = 300.0
# Findings that must be the same everywhere, because results depend on them, and of the packages
# those that matter.
SAME = ("python", "packages", "code", "built-in network")
CRUCIAL = ("ray", "torch", "numpy", "zarr")


def check_cluster(
    address: str | None, every_node: bool, store: Path | None, here: list[Check]
) -> dict[str, list[Check]]:
    """Return the findings by node, "cluster" for the whole; none without an address and
    `every_node`.

    every_node: run `doctor` on each, and compare its findings with those of this machine, `here`.
    """
    if address is None and not every_node:
        return {}
    from orchestrator.ray_backend.connection import check_reachable
    from orchestrator.ray_backend.node_inventory import ask_nodes

    where = address or "auto"
    command = ["cluster", "doctor", *([] if store is None else [str(store.absolute())]), "--json"]
    try:
        check_reachable(where)
        answers = ask_nodes(where, command if every_node else None, ANSWER_SECONDS)
    except (PlanError, RunError) as err:
        return {"cluster": [Check("fail", "Ray", str(err))]}
    cpus, devices = (
        sum(answer.resources.get(key, 0) for answer in answers) for key in ("CPU", "GPU")
    )
    text = f"{where} answers: {len(answers)} nodes, {cpus:.0f} CPUs, {devices:.0f} GPUs"
    findings = {"cluster": [Check("ok", "Ray", text)]}
    for answer in answers if every_node else ():
        if answer.error is not None:
            text = (
                f"no answer: {answer.error}; install gigarestore on the node, or start its Ray "
                "again"
            )
            findings[answer.name] = [Check("fail", "Ray", text)]
        else:
            checks = [compared(check, here) for check in _read(answer.code, answer.out, answer.err)]
            findings[answer.name] = [
                *checks,
                judge_clock(answer.skew, answer.spread),
                judge_ways(answer.unreachable),
            ]
    return findings


def _read(code: int, out: str, err: str) -> list[Check]:
    try:
        return [Check(**row) for row in json.loads(out)]
    except (ValueError, TypeError):
        last = err.strip().rpartition("\n")[2] or f"exit code {code}"
        return [
            Check(
                "fail",
                "gigarestore",
                f"does not run there ({last}); install this version on the node",
            )
        ]


def compared(check: Check, here: list[Check]) -> Check:
    """Return a node's finding, as a failure where it differs from this machine's and results would
    depend on it.
    """
    ours = next((other for other in here if other.name == check.name), None)
    if (
        check.name not in SAME
        or ours is None
        or check.verdict == "fail"
        or _essence(check) == _essence(ours)
    ):
        return check
    return Check(
        "fail", check.name, f"{check.text}; here it is {ours.text}: install the same on all nodes"
    )


def _essence(check: Check) -> tuple[str, ...]:
    """Return what of a finding has to agree: of Python its minor version, of the code its content
    but not its place.
    """
    if (
        check.name == "packages"
    ):  # not which CUDA torch was built for: a head without a GPU has another build
        return tuple(
            p.partition("+")[0] for p in check.text.split(", ") if p.split(" ")[0] in CRUCIAL
        )
    if check.name == "python":
        return tuple(check.text.split(".")[:2])
    return (check.text.partition(" in ")[0],)


def judge_clock(skew: float, spread: float) -> Check:
    """Return the finding about a node's clock; spread: the uncertainty of the skew, s."""
    text = f"{skew:+.2f} s against this machine's, give or take {spread:.2f} s"
    off = max(abs(skew) - spread, 0.0)
    if off > WORST_SKEW:
        return Check("fail", "clock", f"{text}; object stores refuse its requests: switch on NTP")
    if off > NOTICED_SKEW:
        return Check("warn", "clock", f"{text}; its log times mislead: switch on NTP")
    return Check("ok", "clock", text)


def judge_ways(unreachable: tuple[str, ...]) -> Check:
    """Return the finding about a node's ways to the others' Ray."""
    if unreachable:
        return Check(
            "fail", "ways", f"no way to {', '.join(unreachable)}; open the ports between the nodes"
        )
    return Check("ok", "ways", "every other node's Ray answers")
