"""A submission as an sbatch script: a pure function. No text of a user reaches an #SBATCH line
unescaped.

The script only traps, waits and requeues; what happens on the nodes is
cluster.on_node.slurm_launcher's.
"""

from __future__ import annotations

import re
import shlex

from cluster.submission.settings import Common, mebibytes, seconds
from cluster.submission.submission import SHARE, Submission, quoted, this_python
from orchestrator.errors import PlanError

# The scheduler may deliver the warning up to a minute early, and sleeps through the last seconds:
# never less.
LEAST_WARNING = 120

BODY = """\
set -u
run={run}
output={output}
cap={restarts}
{names}attempt="$run/$job.${{SLURM_RESTART_COUNT:-0}}"
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt "$cap" ]; then
  echo "gigarestore: begun again $cap times already; go on with: gigarestore resume $handle"
  exit 75
fi
(umask 077; mkdir -p "$attempt") || exit 70
{exports}{setup}committed() {{
  local tiles
  tiles=$({count})
  echo "${{tiles:-0}}"
}}
before=$(committed)
echo "gigarestore: job $job, attempt ${{SLURM_RESTART_COUNT:-0}}, nodes $SLURM_JOB_NODELIST"
# Only this shell is told of the time limit: a signal to the step would end Ray's own processes with
# it.
trap 'echo "gigarestore: the time limit is near, stopping"; echo limit > "$attempt/stop"' USR1
srun {step} \\
  {launcher} --folder "$attempt" --restarts "$cap" -- \\
  {driver} &
srun=$!
while :; do
  wait "$srun"; code=$?
  kill -0 "$srun" 2>/dev/null || break
done
# srun speaks for all nodes, also for one that died; the driver's own code is what the job ends
# with.
[ -s "$attempt/exit" ] && code=$(cat "$attempt/exit")
if [ "$code" = 75 ] && [ ! -e "$run/cancel" ] && [ ! -e "$share/cancel" ]; then
  if [ "${{SLURM_RESTART_COUNT:-0}}" -ge "$cap" ]; then
    echo "gigarestore: stopped after $cap restarts; go on with: gigarestore resume $handle"
  elif [ "$(committed)" = "$before" ]; then
    echo "gigarestore: this attempt finished no tile, so no other is made; give it a longer --time"
  elif ! command -v scontrol >/dev/null; then
    echo "gigarestore: no scontrol on this node; go on with: gigarestore resume $handle"
  elif scontrol requeue "$job"; then
    sleep 60  # SLURM ends this script
  fi
fi
exit "$code"
"""
# Of one job: it may have been submitted from within an array's task, whose variables it was handed.
ALONE = """\
unset "${!SLURM_ARRAY_@}"
job=$SLURM_JOB_ID handle=slurm:$SLURM_JOB_ID share=$run
"""
# The number of an array's last task is that of the whole array: scontrol is told ARRAY_TASK.
TASK = f"""\
job=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID handle=slurm:$SLURM_ARRAY_JOB_ID
share=$run/{SHARE}$SLURM_ARRAY_TASK_ID
"""
# What says how many tiles were committed so far, of a batch and of a run.
COUNT_BATCH = "cluster.batches.batch_status"
COUNT_RUN = "orchestrator.monitoring.tile_counts"


def render(submission: Submission) -> str:
    """Return the complete script."""
    common = submission.settings.submit
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options(submission)), ""]
    exports = {**submission.environment(), "GIGARESTORE_RUN": submission.run_id}
    if submission.code is not None:
        exports["PYTHONPATH"] = submission.code
    python = common.python or this_python()
    driver = submission.driver(python=python)
    count = COUNT_BATCH if submission.is_batch else COUNT_RUN
    launcher = [python, "-u", "-m", "cluster.on_node.slurm_launcher"]
    body = BODY.format(
        run=shlex.quote(submission.folder),
        output=shlex.quote(submission.output),
        restarts=common.restarts,
        exports="".join(f"export {name}={shlex.quote(value)}\n" for name, value in exports.items()),
        names=ALONE if submission.shares is None else TASK,
        count=f'{quoted([python, "-m", count])} "$output"',
        step=quoted(_step_options(submission)),
        setup="".join(f"{line}\n" for line in common.setup),
        launcher=quoted(launcher),
        driver=quoted(driver),
    )
    return "\n".join(lines) + body


def options(submission: Submission) -> list[str]:
    """Return the options of sbatch, escaped for #SBATCH lines."""
    common = submission.settings.submit
    slurm = submission.settings.slurm
    limit = seconds(common.time)
    values: dict[str, str | bool | None] = {
        "job-name": submission.name,
        "nodes": _nodes(common),
        "ntasks-per-node": "1",
        "cpus-per-task": str(common.cpus),
        "mem": f"{mebibytes(common.memory)}M",
        "time": str(-(-limit // 60)),
        "array": None if submission.shares is None else f"1-{submission.shares}",
        "output": log_pattern(submission),
        "open-mode": "append",
        "requeue": True,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "reservation": slurm.reservation,
        "signal": _warning_signal(limit, common.grace),
        "gpus-per-node": str(common.gpus) if common.gpus else None,
        "no-kill": common.on_node_fail == "continue",
    }
    ours = [
        f"--{name}={escape(value)}" if isinstance(value, str) else f"--{name}"
        for name, value in values.items()
        if value is not None and value is not False
    ]
    return ours + [_user_option(text, submission.shares) for text in slurm.options]


def _nodes(common: Common) -> str:
    """Return how many nodes are wanted, or from how many on."""
    least = common.min_nodes or common.nodes
    return str(common.nodes) if least == common.nodes else f"{least}-{common.nodes}"


def _warning_signal(limit: int, grace: int) -> str | None:
    """Return the option that warns the script before the time limit; limit and grace in seconds."""
    warning = max(grace, LEAST_WARNING)
    if limit > 2 * warning:
        return f"B:USR1@{warning}"
    if limit > LEAST_WARNING / 2:
        return f"B:USR1@{limit // 4}"  # a very short limit: better a small warning than none
    return None


def _user_option(text: str, shares: int | None) -> str:
    """Return an option of the user's own, escaped; raises PlanError for an array of other tasks."""
    limited = rf"--array=1-{shares}%\d+"
    if text.startswith("--array") and re.fullmatch(limited, text) is None:
        raise PlanError(
            f"{text}: an array is --shares N of a batch; what may be added is a limit, "
            "--array=1-N%LIMIT"
        )
    name, equals, value = text.partition("=")
    return f"{name}={escape(value)}" if equals else name


def log_pattern(submission: Submission) -> str:
    """Return the name of the job's log as sbatch expands it; raises PlanError for one that it would
    not.
    """
    if "\\" in submission.folder:
        raise PlanError(
            f"OUT {submission.output} has a backslash, which SLURM drops from its log's name; "
            "choose another"
        )
    name = "%j" if submission.shares is None else "%A_%a"
    return submission.folder.replace("%", "%%") + f"/{name}.log"


def escape(text: str) -> str:
    """Return a value as sbatch reads it back from an #SBATCH line; settings hold no control
    characters.

    In double quotes: outside of them sbatch ends a word at a space, also at one behind a backslash.
    """
    if re.fullmatch(r"[A-Za-z0-9_./:,=+@%\[\]-]+", text):
        return text
    return '"' + re.sub(r'["\\]', lambda match: "\\" + match[0], text) + '"'


def _step_options(submission: Submission) -> list[str]:
    always = ["--ntasks-per-node=1", "--kill-on-bad-exit=0", "--wait=0", "--unbuffered"]
    return (
        [*always, "--no-kill"] if submission.settings.submit.on_node_fail == "continue" else always
    )
