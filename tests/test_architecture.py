"""The import directions of architecture.md, read from the source and measured in fresh
interpreters.
"""

import ast
import subprocess
import sys

import pytest

from tests.places import ROOT

PACKAGES = ("kernels", "storage", "orchestrator", "cluster")
HEAVY = ("torch", "ray", "zarr", "tifffile")

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# Pure: what plans a run must load on a login node in well under a second.
PURE = (
    "job.spec",
    "job.plan",
    "job.tasks.registry",
    "job.trajectory",
    "tiling.axis",
    "tiling.grid",
    "tiling.task_graph",
)
PURE += (
    "tiling.parallelism",
    "scheduling.frontier",
    "scheduling.batch_policy",
    "scheduling.simulator",
    "events",
)
PURE += (
    "planning.estimate",
    "planning.resolve",
    "planning.forecast",
    "run_folder",
    "worker.batch_report",
)
FORBIDDEN = {
    "kernels": {
        "storage",
        "orchestrator",
        "cluster",
        "ray",
        "zarr",
        "tifffile",
        "imagecodecs",
        "pydantic",
        "typer",
    },
    "storage": {"kernels", "orchestrator", "cluster", "ray", "torch", "pydantic", "typer"},
    "orchestrator": {"cluster", "typer", "rich"},
    "cluster": set(),
}


def imported(path):
    """Return the top-level names that a module imports anywhere in it, with their lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name.partition(".")[0], node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            found.append((node.module.partition(".")[0], node.lineno))
    return found


def loaded_by(*modules, then="pass"):
    """Return which of the heavy packages a fresh interpreter holds after importing `modules`."""
    lines = [
        f"import {', '.join(modules)}",
        then,
        f"print(*(m for m in {HEAVY} if m in sys.modules))",
    ]
    code = "import sys; sys.path.insert(0, '.')\n" + "\n".join(lines)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    wrong = [
        f"{path.name}:{line} imports {name}"
        for name, line in imported(path)
        if name in FORBIDDEN[package]
    ]
    assert not wrong


def test_the_python_api_stands_on_the_orchestrator_alone():
    ours = {name for name, _ in imported(ROOT / "gigarestore.py")} & set(PACKAGES)
    assert ours == {"orchestrator"}
    assert loaded_by("gigarestore") == set()


def test_only_the_ray_executor_and_its_rooms_import_ray():
    importers = {
        str(path.relative_to(ROOT))
        for path in MODULES
        if any(name == "ray" for name, _ in imported(path))
    }
    outside = {path for path in importers if not path.startswith("orchestrator/ray_backend/")}
    assert outside == {"cluster/submission/ray_jobs.py"}  # the client of the Jobs API


def test_no_module_of_orchestrator_puts_storage_and_torch_together():
    both = {
        path.stem
        for path in MODULES
        if {"torch", "storage"} <= {name for name, _ in imported(path)}
        and path.relative_to(ROOT).parts[0] == "orchestrator"
    }
    assert both == set()


@pytest.mark.parametrize("package", [*PACKAGES, "cluster.cli"])
def test_a_package_and_the_command_line_load_nothing_heavy(package):
    assert loaded_by(package) == set()


def test_what_plans_a_run_loads_nothing_heavy():
    assert loaded_by(*(f"orchestrator.{name}" for name in PURE)) == set()


def test_planning_a_run_loads_nothing_heavy():
    command = "from cluster.cli import _run; _run(['plan', '--size', '500x700', '--scale', '4'])"
    assert loaded_by("cluster.cli", then=command) == set()


def test_kernels_need_neither_storage_nor_ray():
    assert loaded_by(
        "kernels.sampling.sampler", "kernels.denoisers.denoiser", "kernels.denoisers.builtin"
    ) == {"torch"}


def test_storage_needs_no_network():
    assert "torch" not in loaded_by(
        "storage.publishing.publish",
        "storage.export.export_image",
        "storage.run_store.cells",
        "storage.readers.reader_registry",
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
