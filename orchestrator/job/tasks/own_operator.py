"""A linear operator of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.errors import PlanError
from orchestrator.job.fields.sections import TaskFields
from orchestrator.job.tasks.task import OwnOption, Task

if TYPE_CHECKING:
    from kernels.operators.linear_operator import Operator


class OwnOperator(Task):
    """What package.module:Class measures of all channels together."""

    name = "operator"
    place = 100
    scaled = True
    has_coarser_levels = False
    under_output = False
    picture = False
    mixes_bands = True
    own_options = (OwnOption("--operator", lambda task: task.operator is not None),)

    @classmethod
    def resolve(cls, given: TaskFields, measurement: Any, channels: int) -> TaskFields:
        """Return the task with the operator's scale and alignment, once it obeys its laws."""
        from orchestrator.job.fields.user_operator import load_operator  # imports torch

        if given.operator is None:
            raise PlanError("task operator needs --operator package.module:Class")
        operator = load_operator(given)
        from kernels.operators.operator_checks import check_operator
        from kernels.user_code import in_one_line

        try:
            check_operator(operator, given.operator, channels, noisy=given.noisy)
        except ValueError:
            raise
        except Exception as err:  # the user's methods may raise anything
            raise PlanError(f"--operator {given.operator} failed: {in_one_line(err)}") from err
        asked = {"scale": operator.scale, "alignment": operator.alignment}
        return given.model_copy(update=asked)

    @classmethod
    def operator(cls, given: TaskFields) -> Operator:
        """Return the user's object, wrapped."""
        from orchestrator.job.fields.user_operator import load_operator  # imports torch

        return load_operator(given)
