"""What remote calls have answered, for a driver that looks now and then instead of being woken each
time.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import RayError


def poll_results(refs: Collection[Any]) -> list[tuple[Any, Future[Any]]]:
    """Return those of some remote calls that have ended, each with its result or error; waits for
    none.
    """
    ended, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0) if refs else ([], [])
    return [(ref, _answer(ref)) for ref in ended]


def _answer(ref: Any) -> Future[Any]:
    answer: Future[Any] = Future()
    try:
        answer.set_result(ray.get(ref))
    except RayError as err:
        answer.set_exception(err.with_traceback(None))  # which would hold the reference
    return answer
