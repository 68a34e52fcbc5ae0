"""What `plan` recommends: nodes that the graph keeps busy, and a warning when more would idle."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planning.advice import advise, idle_warning
from orchestrator.tiling.parallelism import Parallelism

SHAPES = st.builds(
    lambda depth, mean: Parallelism(depth=depth, tiles=depth * mean, peak=2 * mean),
    st.integers(1, 500),
    st.integers(1, 5000),
)
PLAN = ["plan", "--size", "4000x5000", "--scale", 4, "--no-simulate"]


@settings(deadline=None)
@given(shape=SHAPES, batch=st.sampled_from([1, 4, 8, 16]), per_node=st.integers(1, 64))
def test_what_is_recommended_is_kept_busy_and_less_than_one_node_more_would_be(
    shape, batch, per_node
):
    found = advise(shape, batch, per_node)
    useful = shape.useful_workers(batch)
    assert found.workers == found.nodes * found.per_node
    assert 1 <= found.workers <= useful
    assert useful - found.workers < per_node


@settings(deadline=None)
@given(shape=SHAPES, batch=st.sampled_from([1, 8]), workers=st.integers(1, 5000))
def test_a_warning_comes_exactly_when_workers_would_idle(shape, batch, workers):
    warning = idle_warning(shape, workers, batch, {})
    assert (warning is None) == (workers <= shape.useful_workers(batch))


def test_the_warning_names_an_order_that_keeps_more_busy_and_none_that_does_not():
    shape = Parallelism(depth=10, tiles=160, peak=20)
    told = idle_warning(shape, 20, 1, {"centre": {1: 12}, "bridge": {1: 30}, "colour": {8: 99}})
    assert told == (
        "of 20 workers about 8 would idle: the graph keeps 12 busy in batches of 1; take fewer, "
        "or --order bridge, which keeps 30 busy"
    )
    assert idle_warning(shape, 20, 1, {"centre": {1: 12}}).endswith("; take fewer")


@pytest.fixture
def plan(cli, tmp_path, monkeypatch):
    """Ask for a plan's recommendation, away from anybody's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def ask(*options):
        return json.loads(cli(*PLAN, "--json", *options).out)["recommended"]

    return ask


def test_a_plan_recommends_nodes_of_the_size_that_one_has(plan):
    eights = plan()["gpu"]
    ones = plan("--gpus", 1)["gpu"]
    assert (eights["per_node"], ones["per_node"]) == (8, 1)
    assert eights["workers"] <= ones["workers"] == ones["nodes"]
    assert plan("--cpus", 16)["cpu"]["per_node"] == 16
    assert plan()["warning"] is None


@pytest.mark.slow
def test_a_plan_warns_of_workers_and_of_nodes_that_would_idle(plan, tmp_path):
    assert "of 500 workers" in plan("--workers", 500)["warning"]
    assert "of 64 workers" in plan("--nodes", 8, "--gpus", 8)["warning"]
    assert plan("--nodes", 1, "--gpus", 8)["warning"] is None
    (tmp_path / "gigarestore.toml").write_text("[submit]\nnodes = 8\ngpus = 8\n")
    assert "of 64 workers" in plan()["warning"]


def test_a_plan_prints_the_recommendation_and_the_warning(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    told = cli(*PLAN, "--nodes", 8, "--gpus", 8).out
    assert "recommended:           up to 8 GPU(s), batches of 8: 1 node of 8; or\n" in told
    assert "warning:               of 64 workers about 54 would idle" in told
    assert "warning:" not in cli(*PLAN).out
