"""The entrypoint of a RayJob: cluster.on_node.driver with the arguments that the manifest holds,
then the copy to a store.

Before Kubernetes ends the pod it makes the file STOP and waits until RUNNING is gone
(cluster.submission.kuberay.rayjob_manifest). Exit codes: those of cluster.on_node.driver; 2 when
the store takes nothing, 1 when the finished image could not be copied.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from cluster.submission.kuberay.contract import ARGUMENTS, COPY_TO, RUNNING, SCRATCH, STOP


def main() -> int:
    """Run the driver; return its exit code."""
    from cluster.on_node import driver

    arguments: list[str] = json.loads(os.environ[ARGUMENTS])
    scratch = Path(os.environ[SCRATCH])
    running = scratch / RUNNING
    running.touch()
    url = os.environ.get(COPY_TO)
    try:
        if url and not reachable(url):
            return 2
        code = driver.main(["--stop", str(scratch / STOP), *arguments])
        if code == 0 and url:
            code = copy(Path(driver.parse(arguments)[0].output), url)
        return code
    finally:
        running.unlink(missing_ok=True)


def reachable(url: str) -> bool:
    """Return whether the store takes objects; say why not."""
    from storage.byte_source import redact
    from storage.errors import FormatError
    from storage.publishing.upload import try_target

    try:
        try_target(url)
    except FormatError as err:
        print(
            f"gigarestore: {' '.join(redact(str(err)).split())}; check --copy-to and its "
            "credentials",
            file=sys.stderr,
        )
        return False
    return True


def copy(root: Path, url: str) -> int:
    """Copy the published image to a store; return 0, or 1 when that failed."""
    from storage.byte_source import redact
    from storage.errors import FormatError
    from storage.publishing.upload import upload

    try:
        count, size = upload(root, url)
    except (FormatError, OSError) as err:
        print(
            f"gigarestore: {' '.join(redact(str(err)).split())}; the image itself is whole at "
            f"{root}",
            file=sys.stderr,
        )
        return 1
    print(f"{redact(url)}: {count} objects, {size:,} bytes", flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as cluster.on_node.driver: Ray's own farewell may wait for a head that is gone
