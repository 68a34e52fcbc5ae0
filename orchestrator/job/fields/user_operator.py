"""The user's own operator: package.module:Class, constructed with the keyword arguments given."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from kernels.operators.linear_operator import Operator
from kernels.user_code import in_one_line
from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import TaskFields


@dataclass(frozen=True, slots=True)
class UserOperator(Operator):
    """Wrap an object with A, pinv and scale; alignment and singular_values are optional."""

    inner: Any
    shared: ClassVar[bool] = True
    """All tiles of a batch have the same."""

    @property
    def scale(self) -> int:
        return int(self.inner.scale)

    @property
    def alignment(self) -> int:
        return int(getattr(self.inner, "alignment", self.scale))

    @property
    def declares_singular_values(self) -> bool:
        return hasattr(self.inner, "singular_values")

    def A(self, x: Tensor) -> Tensor:
        """Return what the user's operator measures, tile by tile on a CPU so that no tile depends
        on its batch.
        """
        return _each(self.inner.A, x)

    def pinv(self, y: Tensor) -> Tensor:
        """Return the user's A+ y."""
        return _each(self.inner.pinv, y)

    def singular_values(self, x: Tensor) -> float | Tensor:
        """Return the declared singular values; 1 where none are (noise-free measurements need
        none).
        """
        if not self.declares_singular_values:
            return 1.0
        declared: float | Tensor = self.inner.singular_values(x)
        return declared


def load_operator(task: TaskFields) -> UserOperator:
    """Import and construct the operator of a task; raises PlanError on one line."""
    assert task.operator is not None, "the caller has checked"
    return _load(task.operator, tuple(sorted(task.operator_args.items())))


@lru_cache(maxsize=4)
def _load(ref: str, arguments: tuple[tuple[str, str], ...]) -> UserOperator:
    module_name, _, attribute = ref.partition(":")
    if not module_name or not attribute:
        raise PlanError(f"--operator {ref!r} names no class; write package.module:Class")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        made = getattr(importlib.import_module(module_name), attribute)(
            **{k: _value(v) for k, v in arguments}
        )
        own = UserOperator(made)
        if own.scale < 1 or own.alignment < 1 or own.alignment % own.scale:
            raise ValueError(f"alignment {own.alignment} is no multiple of its scale {own.scale}")
        if not (callable(made.A) and callable(made.pinv)):
            raise TypeError("A and pinv must be methods")
    except Exception as err:  # the user's code may raise anything; there is then no operator
        raise PlanError(f"--operator {ref} cannot be used: {in_one_line(err)}") from err
    return own


def _value(text: str) -> Any:
    """Read 4, 0.5, true or [1, 2] as what they look like, all else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _each(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.device.type != "cpu" or len(x) == 1:
        return f(x)
    import torch

    return torch.cat([f(x[i : i + 1]) for i in range(len(x))])
