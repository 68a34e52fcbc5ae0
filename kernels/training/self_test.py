"""Show in two minutes on a processor that training works: it improves, survives a kill, and can be
repeated.

    python -m kernels.training.self_test            # `make prior-smoke`
    python -m kernels.training.self_test --steps 60

Exit status 0 when all three hold, else 1.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kernels.training.command import (
    CHECKPOINT,
    VALIDATION_IMAGES,
    held_out_pictures,
    prepare_processor,
    train,
)
from kernels.training.recipe import PRESETS
from kernels.training.trainer import Trainer, read_state, validate

# Gain of the mean validation PSNR over the untrained network's linear estimate, dB, at the preset's
# number of steps.
MARGIN = 3.0
FIRST = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the three checks; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.training.self_test", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=PRESETS["smoke"].steps)
    parser.add_argument(
        "--margin", type=float, default=MARGIN, help="least gain of the validation PSNR, dB"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    spec = replace(PRESETS["smoke"], steps=options.steps)
    prepare_processor(1)
    if options.worker is not None:
        train(spec, options.worker, save_every=0.5)
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first, again = (train(replace(spec, steps=FIRST), root / name) for name in ("a", "b"))
        repeated = first == again
        print(f"same seed, same first {FIRST} losses: {'yes' if repeated else 'NO'}", flush=True)

        state = _killed_once(root / "c", options)
        step = int(state["step"])
        print(f"killed with SIGKILL; the checkpoint of step {step} is whole", flush=True)
        train(spec, root / "c")
        end = read_state(root / "c" / CHECKPOINT)
        resumed = 0 < step < options.steps == end["step"]
        print(f"resumed from step {step} to {end['step']}: {'yes' if resumed else 'NO'}")

        held_out = held_out_pictures(spec.collection(root), 0, VALIDATION_IMAGES)
        before = validate(Trainer(spec).average, held_out, spec.seed)
        after = end["history"][-1][1:]
        gain = (sum(after) - sum(before)) / len(after)
        pairs = zip(before, after, strict=True)
        figures = " / ".join(f"{low:.2f} -> {high:.2f}" for low, high in pairs)
        print(f"validation {figures} dB: {gain:+.2f} dB, at least {options.margin:+.2f} wanted")
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if repeated and resumed and gain >= options.margin else 1


def _killed_once(out: Path, options: argparse.Namespace) -> dict[str, object]:
    """Train in a process of its own until its first checkpoint, kill that, and return what the
    checkpoint holds.
    """
    command = [
        sys.executable,
        "-m",
        "kernels.training.self_test",
        "--steps",
        str(options.steps),
        "--worker",
        str(out),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (out / CHECKPOINT).exists() and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return read_state(out / CHECKPOINT)


if __name__ == "__main__":
    raise SystemExit(main())
