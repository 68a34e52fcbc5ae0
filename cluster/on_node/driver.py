"""What a cluster runs: restores, or goes on where an earlier attempt ended; beats; stops when told.

    python -m cluster.on_node.driver --output OUT --folder FOLDER [options] -- RESTORE
    python -m cluster.on_node.driver --output OUTDIR --folder FOLDER [options] -- batch BATCH

RESTORE and BATCH are the arguments of `gigarestore restore` and of `gigarestore batch`.

With --array each task of a SLURM array does its share of a batch, and FOLDER/share-I is its folder.

FOLDER/heartbeat.json is rewritten every few seconds, FOLDER/exit.json says how the driver ended,
and a file FOLDER/cancel (or --stop FILE) ends the run like a signal: everything committed stays.
Exit codes: those of `gigarestore restore` or `batch`, 75 when it was stopped and can go on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.options.exit_codes import INTERRUPTED, RESUMABLE
from cluster.submission.submission import BATCH, SHARE
from orchestrator.run_folder import RunDir
from storage import atomic_files
from storage.run_store.fencing import EXPIRY

BEAT_SECONDS = 2.0
HERE = ("--executor", "ray")  # else `resume` would submit again


class Beacon(threading.Thread):
    """Say that the driver lives, and look for a wish that it stop."""

    def __init__(self, folder: Path, stops: Sequence[Path]) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.stops = stops
        self.notified = False
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            self.write("heartbeat.json", {})
            if not self.notified and any(stop.exists() for stop in self.stops):
                self.notified = True
                print("gigarestore: told to stop", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
            self._ended.wait(BEAT_SECONDS)

    def end(self, code: int) -> None:
        self._ended.set()
        self.join(timeout=BEAT_SECONDS)
        self.write("exit.json", {"code": code})

    def write(self, name: str, values: dict[str, Any]) -> None:
        facts = {"time": time.time(), "host": socket.gethostname(), "pid": os.getpid(), **values}
        with contextlib.suppress(
            OSError
        ):  # a full or absent file system is for the run itself to complain of
            atomic_files.replace_text(self.folder / name, json.dumps(facts), fsync=False)


def main(arguments: Sequence[str]) -> int:
    """Run the driver; return its exit code."""
    given, words = parse(arguments)
    if Path(given.directory).is_dir():
        os.chdir(given.directory)
    out = Path(given.output)
    folder = Path(given.folder)
    stops = [folder / "cancel", *map(Path, given.stop)]
    if given.array:
        folder = folder / f"{SHARE}{os.environ['SLURM_ARRAY_TASK_ID']}"
        stops.append(folder / "cancel")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "exit.json").unlink(missing_ok=True)
    if words[:1] == [BATCH]:
        command = batch_line(out, folder, words, array=given.array)
    else:
        command = command_line(RunDir(out), folder, words, given.earlier)
    if address := os.environ.get("RAY_ADDRESS"):
        command += ["--address", address]
    beacon = Beacon(folder, stops)
    signal.signal(signal.SIGTERM, _interrupt)
    beacon.start()
    try:
        code = _run(command)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        code = RESUMABLE
    beacon.end(code)
    return code


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the driver's options and the arguments of restore or batch."""
    split = list(arguments).index("--")
    parser = argparse.ArgumentParser(prog="python -m cluster.on_node.driver")
    parser.add_argument("--output", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--directory", default=".")
    parser.add_argument(
        "--earlier", action="append", default=[], help="identity of a submission to go on from"
    )
    parser.add_argument(
        "--stop", action="append", default=[], help="a file that ends the run when it appears"
    )
    parser.add_argument(
        "--array",
        action="store_true",
        help="this is a task of a SLURM array, with a share of a batch",
    )
    return parser.parse_args(list(arguments)[:split]), list(arguments)[split + 1 :]


def command_line(
    run: RunDir, folder: Path, restore: list[str], earlier: Sequence[str]
) -> list[str]:
    """Return `restore` for the first attempt, `resume` once the job in OUT is this submission's or
    an earlier one's.

    Whose job stands there is told by its file: the first attempt of each submission notes what it
    found before it began; one without a note never began. A later attempt takes over: the scheduler
    has declared the one before it dead, and the fence (storage.run_store.fencing) sees to it.
    """
    note = folder / "before.json"
    again = note.exists()
    if not again:
        atomic_files.replace_text(note, json.dumps(_identity(run.job)), fsync=False)
    now = _identity(run.job)
    began = [path for name in earlier if (path := folder.with_name(name) / note.name).exists()]
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in (note, *began)]
    if now and any(before != now for before in notes):
        return ["resume", str(run.root), *HERE, *(["--take-over"] if again else [])]
    if again and run.attempts.exists():
        time.sleep(
            EXPIRY
        )  # it died before it wrote its job: its signs of life count for a while, here or elsewhere
    return ["restore", *restore]


def batch_line(out: Path, folder: Path, words: list[str], *, array: bool) -> list[str]:
    """Return `batch`, which goes on by itself; a later attempt takes over from the one before,
    which is dead.
    """
    from cluster.batches.folder import BatchFolder
    from cluster.batches.shares import array_share

    note = folder / "begun"
    share = array_share() if array else None
    again = note.exists()
    note.touch()
    if again and any(
        run.attempts.exists() and not run.job.exists() for run in BatchFolder(out).runs(share)
    ):
        time.sleep(EXPIRY)  # it died before it wrote an image's job: as above
    return [*words, *HERE, *(["--array"] if array else []), *(["--take-over"] if again else [])]


def _identity(path: Path) -> list[int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return [status.st_ino, status.st_mtime_ns, status.st_size]


def _run(command: list[str]) -> int:
    from cluster import cli
    from storage.byte_source import redact

    print(f"gigarestore: {redact(' '.join(command))}", file=sys.stderr, flush=True)
    try:
        cli.main(command)
    except SystemExit as ended:
        return int(ended.code or 0)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Ray's own farewell waits a minute for a head that is gone
