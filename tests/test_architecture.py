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


# Which rooms of its own package a room may import; "" is the package's root, and a room that holds
# rooms stands above them. Directions between packages: FORBIDDEN.
ROOMS = {
    "kernels": {
        "": (),
        "operators": (),
        "noise_models": (),
        "denoisers.guided_diffusion": ("",),
        "denoisers": ("", "denoisers.guided_diffusion"),
        "sampling": ("", "operators", "denoisers", "denoisers.guided_diffusion"),
        "training": ("", "operators", "denoisers"),
        "bench": (
            *("", "operators", "denoisers", "denoisers.guided_diffusion", "sampling", "training"),
        ),
    },
    "storage": {
        "": (),
        "zarr_format": ("",),
        "run_store": ("", "zarr_format"),
        "publishing": ("", "zarr_format"),
        "export": ("", "zarr_format"),
        "readers.common": ("",),
        "readers.raster": ("", "readers.common"),
        "readers.tiff": ("", "readers.common"),
        "readers.zarr_arrays": ("", "zarr_format", "readers.common"),
        "readers": (
            *("", "zarr_format", "readers.common"),
            *("readers.raster", "readers.tiff", "readers.zarr_arrays"),
        ),
    },
    "orchestrator": {
        "": (),
        "tiling": ("",),
        "scheduling": ("tiling",),
        "job.fields": ("",),
        "job.tasks": ("", "tiling", "job.fields"),
        "job": ("", "tiling", "job.fields", "job.tasks"),
        "measurement": ("", "job.fields", "job"),
        "planning": (
            *("", "tiling", "scheduling", "job.fields", "job.tasks", "job", "measurement"),
        ),
        "worker": ("", "tiling", "job.fields", "job", "measurement"),
        "monitoring": ("", "tiling", "job", "planning"),
        "run": (
            *("", "tiling", "scheduling", "job.fields", "job", "measurement", "planning"),
            "worker",
            "monitoring",
        ),
        "ray_backend": ("", "tiling", "scheduling", "job", "worker", "monitoring", "run"),
        "api": (
            *("", "job.fields", "job.tasks", "job", "measurement", "planning", "run"),
            *("ray_backend", "monitoring"),
        ),
    },
    "cluster": {
        "options": (),
        "terminal": (),
        "doctor": (),
        "bench": ("terminal",),
        "training": ("terminal",),
        "evaluation": ("options", "terminal", "training"),
        "submission": ("options",),
        "submission.slurm": ("options", "submission"),
        "submission.kuberay": ("options", "submission"),
        "batches": ("options", "terminal"),
        "submitted_runs": (
            *("options", "terminal", "batches"),
            *("submission", "submission.slurm", "submission.kuberay"),
        ),
        "commands": (
            *("options", "terminal", "doctor", "bench", "training", "evaluation", "batches"),
            *("submission", "submission.kuberay", "submitted_runs"),
        ),
        "": ("options", "commands"),
        "on_node": ("", "options", "batches", "submission", "submission.kuberay"),
    },
}


def dotted(path):
    """Return a module's name, (package, room) of where it stands, "" for the package's root."""
    *folders, stem = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(folders if stem == "__init__" else [*folders, stem])
    return name, (folders[0], ".".join(folders[1:]))


PLACES = dict(map(dotted, MODULES))


def imported_modules(path):
    """Yield the modules of ours that a module imports anywhere in it, for types alone too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in PLACES)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in PLACES or node.module in PLACES:
                    yield whole if whole in PLACES else node.module


def room_imports():
    """Return {(package, room): {rooms of the same package that it imports}}."""
    rooms = {place: set() for place in PLACES.values()}
    for path in MODULES:
        package, room = PLACES[dotted(path)[0]]
        for name in imported_modules(path):
            other_package, other = PLACES[name]
            if other_package == package and other != room:
                rooms[package, room].add(other)
    return rooms


def test_rooms_import_what_the_table_allows_and_the_table_lists_no_more():
    table = {
        (package, room): set(allowed)
        for package, rooms in ROOMS.items()
        for room, allowed in rooms.items()
    }
    assert room_imports() == table


@pytest.mark.parametrize("package", ROOMS)
def test_no_room_imports_one_that_stands_above_it(package):
    """A table in whose order every room stands above those that it imports has no circle."""
    above = list(ROOMS[package])
    wrong = [
        f"{room or package} imports {other or package}"
        for room, allowed in ROOMS[package].items()
        for other in allowed
        if above.index(other) > above.index(room)
    ]
    assert wrong == []


def test_modules_import_in_no_circle():
    open_modules = {dotted(path)[0]: set(imported_modules(path)) for path in MODULES}
    for name, others in open_modules.items():
        others.discard(name)
    while free := [name for name, others in open_modules.items() if not others]:
        for name in free:
            del open_modules[name]
        for others in open_modules.values():
            others.difference_update(free)
    assert not open_modules, f"these import each other: {sorted(open_modules)}"


@pytest.mark.parametrize("path", sorted(p for p in MODULES if p.name == "__init__.py"), ids=str)
def test_every_room_says_what_it_is_for_and_what_it_may_import(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    first, _, rest = text.partition("\n\n")
    assert first.rstrip().endswith(".")
    assert "import" in rest, f"{path} does not say what it may import"


def test_no_two_modules_and_no_two_classes_have_one_name():
    # errors.py holds a package's exceptions; a command's file is called as the command is.
    stems = [
        path.stem
        for path in MODULES
        if path.stem not in ("__init__", "__main__", "errors")
        and path.parent.name not in ("commands", "tasks")
    ]
    assert sorted(stems) == sorted(set(stems)), sorted(s for s in stems if stems.count(s) > 1)
    classes = [
        node.name
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert sorted(classes) == sorted(set(classes)), sorted(
        {name for name in classes if classes.count(name) > 1}
    )


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
