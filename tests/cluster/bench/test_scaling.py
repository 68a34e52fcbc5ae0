"""The scaling benchmark and its chart."""

import json
from xml.etree import ElementTree

import pytest

from cluster.terminal.line_chart import Line, svg

SVG = "{http://www.w3.org/2000/svg}"


def test_a_chart_is_an_image_whose_points_lie_inside_and_in_order():
    drawn = svg(
        "a < b",
        "x",
        "y",
        [Line("up", [(1, 2.0), (3, 9.0)]), Line("down", [(1, 8.0), (3, 1.0)], dashed=True)],
    )
    root = ElementTree.fromstring(drawn)
    up, down = (
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in root.iter(f"{SVG}polyline")
    )
    assert up[0][0] < up[1][0]
    assert up[0][1] > up[1][1], "y grows upwards"
    assert down[0][1] < down[1][1]
    assert all(0 < x < 640 and 0 < y < 400 for x, y in up + down)
    assert {"a < b", "up", "down"} <= {text.text for text in root.iter(f"{SVG}text")}


def test_a_chart_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        svg("", "", "", [Line("none", [])])


@pytest.mark.ray
def test_the_scaling_bench_restores_a_picture_and_draws_it(cli, tmp_path):
    chart = tmp_path / "chart.svg"
    ended = cli(
        *(
            "bench",
            "scaling",
            "--denoiser",
            "analytic:",
            "--tiles",
            "2",
            "--tile",
            "64",
            "--stride",
            "48",
        ),
        *("--steps", "1", "--workers", "1", "--plot", chart),
    )
    assert ended.code == 0, ended.err
    found = json.loads(ended.out.splitlines()[-1])
    assert [(run["kind"], run["workers"], run["tiles"]) for run in found["runs"]] == [
        ("strong", 1, 4),
        ("weak", 1, 4),
    ]
    for run in found["runs"]:
        assert run["makespan"] == pytest.approx(run["ideal"]) == pytest.approx(run["bound"])
        assert run["efficiency"] == pytest.approx(1)
    assert ElementTree.parse(chart).getroot().tag == f"{SVG}svg"


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--tiles", "1"]])
def test_a_scaling_bench_of_nothing_is_refused_on_one_line(cli, arguments):
    ended = cli("bench", "scaling", *arguments)
    assert ended.code == 2
    assert arguments[0] in ended.complaint
