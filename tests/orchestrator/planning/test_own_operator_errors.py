"""An error in one's own operator is one line with its place, found when the job is planned."""

from textwrap import dedent

import pytest

from orchestrator.errors import PlanError
from orchestrator.job.spec import JobSpec
from orchestrator.planning.resolve import plan_job
from tests.kernels.denoisers.small_networks import forget_modules

BROKEN = """
    class Measures:
        scale = 1
        def A(self, x):
            return x.no_such_method()
        def pinv(self, y):
            return y

    class Unmade:
        def __init__(self):
            {}["kernel"]

    class Inverts(Measures):
        def A(self, x):
            return x
        def pinv(self, y):
            return y[0, 0, 0, 10_000_000]
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Measures", r"failed: AttributeError: .* \(.*broken_operators\.py:5\)$"),
        ("Unmade", r"cannot be used: KeyError: 'kernel' \(.*broken_operators\.py:11\)$"),
        ("Inverts", r"failed: IndexError: .* \(.*broken_operators\.py:17\)$"),
    ],
)
def test_an_error_in_ones_own_operator_has_its_place(tmp_path, monkeypatch, name, says):
    (tmp_path / "broken_operators.py").write_text(dedent(BROKEN))
    forget_modules(monkeypatch, tmp_path, "broken_operators")
    task = {"name": "operator", "operator": f"broken_operators:{name}"}
    spec = JobSpec.build({"input": {"size": [64, 64]}, "task": task})
    with pytest.raises(PlanError, match=says) as caught:
        plan_job(spec)
    assert "\n" not in str(caught.value)
