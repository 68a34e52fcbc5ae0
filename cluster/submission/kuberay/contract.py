"""What the manifest and the entrypoint in its pods agree on: names of variables and files."""

from __future__ import annotations

ARGUMENTS = "GIGARESTORE_DRIVER"
COPY_TO = "GIGARESTORE_COPY_TO"
SCRATCH = "GIGARESTORE_SCRATCH"
# In the pod's own scratch folder: every pod, and so every attempt, has a new one.
STOP = "gigarestore-stop"
RUNNING = "gigarestore-running"
