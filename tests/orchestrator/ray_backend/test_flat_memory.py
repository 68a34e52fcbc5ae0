"""Neither driver nor worker grows with the image: the memory of both after 100 and after 10,000
tiles.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.places import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SIDE = 820  # 102 x 102 tiles of 16 px every 8 px at scale 2
EARLY = 100
LATE = 10_000
# Bytes that the run's small files take, with a margin.
NEEDED = 500_000_000

SCRIPT = """
import json, sys
import psutil
from orchestrator.events import BatchCommitted, WorkerStarted
from orchestrator.ray_backend.executor import RayExecutor
from orchestrator.run.lifecycle import start
from orchestrator.job.spec import JobSpec

early, late = int(sys.argv[3]), int(sys.argv[4])
processes, done, seen = {"driver": psutil.Process()}, 0, {}

def watch(event):
    global done
    if isinstance(event, WorkerStarted):
        processes["worker"] = psutil.Process(int(event.worker.rpartition(":")[2]))
    if isinstance(event, BatchCommitted):
        before, done = done, done + len(event.keys)
        for tiles in (early, late):
            if before < tiles <= done:
                seen[tiles] = {name: of.memory_info().rss for name, of in processes.items()}

spec = JobSpec.build({
    "input": {"path": sys.argv[1]},
    "output": sys.argv[2],
    "task": {"name": "sr", "scale": 2},
    "denoiser": "analytic:",
    "sampling": {"steps": 1, "intent": "faithful"},
    "tiling": {"tile": 16, "stride": 8, "levels": 1, "margin": 4},
})
start(spec, RayExecutor(workers=1, batch=8), [watch])
print(json.dumps([seen[early], seen[late]]))
"""


@pytest.fixture
def folder(tmp_path):
    """A folder in memory where there is room: what is flushed to a disk 20,000 times proves nothing
    here.
    """
    memory = Path("/dev/shm")
    if not (
        memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > NEEDED
    ):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def test_memory_after_ten_thousand_tiles_is_that_after_a_hundred(
    make_picture, write_picture, folder
):
    source = write_picture(folder / "in.tif", make_picture(SIDE // 2, SIDE // 2), tile=(64, 64))
    root = ROOT
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, source, folder / "out", str(EARLY), str(LATE)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    early, late = json.loads(ended.stdout)
    assert set(early) == set(late) == {"driver", "worker"}
    for name in early:
        assert late[name] < 1.05 * early[name], (name, early, late)
