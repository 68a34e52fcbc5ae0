"""The job file is on the disk, bytes and name, before there is a journal: a power cut in between
leaves a run that can be begun again, never one whose journal nobody can read.
"""

import json
import subprocess
import sys

import pytest

from tests.places import ROOT

# Runs the command line in this process, and writes down each flush and each name that is given, in
# order. The real functions do the work.
RECORDER = """
import json, os, sys

log = open(sys.argv[1], "w")
fsync, rename, replace, link = os.fsync, os.rename, os.replace, os.link

def note(what, path):
    print(json.dumps([what, os.fspath(path)]), file=log, flush=True)

def noted_fsync(fd):
    path = os.readlink(f"/proc/self/fd/{fd}")
    fsync(fd)
    note("flushed", path)

def naming(function):
    def named(source, target, **options):
        function(source, target, **options)
        note("from", source)
        note("named", target)
    return named

os.fsync = noted_fsync
os.rename, os.replace, os.link = naming(rename), naming(replace), naming(link)

from cluster.cli import main

sys.argv[1:] = sys.argv[2:]
main()
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory, make_picture, write_picture):
    """Return (what, path) of a whole run, in order."""
    folder = tmp_path_factory.mktemp("order")
    picture = write_picture(folder / "picture.png", make_picture(24, 24))
    recorded = folder / "steps.jsonl"
    command = ["restore", picture, folder / "out", "--scale", 2, "--tile", 32, "--steps", 1]
    command += ["--executor", "serial", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", RECORDER, str(recorded), *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in recorded.read_text().splitlines()]


def place(steps, what, path):
    """Return where a step stands, the first of its kind."""
    assert (what, str(path)) in steps, f"{path} was never {what}"
    return steps.index((what, str(path)))


@pytest.mark.slow
def test_job_and_its_name_are_flushed_before_the_journal_gets_a_name(steps):
    (job,) = {path for what, path in steps if what == "named" and path.endswith("/job.toml")}
    state = job.removesuffix("/job.toml")
    named = place(steps, "named", job)
    before_its_name = steps[named - 1][1]
    assert place(steps, "flushed", before_its_name) < named, "the bytes were flushed first"
    durable = named + steps[named:].index(("flushed", state))
    assert named < durable < place(steps, "named", f"{state}/journal")


def test_journal_has_its_bytes_before_its_name(steps):
    (journal,) = {path for what, path in steps if what == "named" and path.endswith("/journal")}
    named = place(steps, "named", journal)
    assert place(steps, "flushed", steps[named - 1][1]) < named
    assert ("flushed", journal.removesuffix("/journal")) in steps[named:]
