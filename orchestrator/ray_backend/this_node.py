"""Which machine of a Ray cluster a worker's process is on."""

from __future__ import annotations

import ray


def this_node() -> str:
    """Return Ray's name of this machine; raises RuntimeError outside of Ray."""
    return str(ray.get_runtime_context().get_node_id())
