"""What an installation brings: four packages under their own names, the weights, the command."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

import kernels
from kernels.denoiser_info import BUILTIN_WEIGHTS
from tests.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ["kernels", "storage", "orchestrator", "cluster"]
LARGEST_WHEEL = 20_000_000


def installed():
    try:
        return importlib.metadata.distribution("gigarestore")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gigarestore is not installed here")


def setuptools_version():
    try:
        return tuple(int(part) for part in importlib.metadata.version("setuptools").split(".")[:1])
    except importlib.metadata.PackageNotFoundError:
        return (0,)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the sources, without a network; return (names in it, its
    METADATA).
    """
    if setuptools_version() < (77,):
        pytest.skip("building needs setuptools 77")
    copy = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "gigarestore.py"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    build = "import setuptools.build_meta as b; print(b.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = copy.glob("*.whl")
    assert path.stat().st_size < LARGEST_WHEEL
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (metadata,) = (n for n in names if n.endswith("METADATA"))
        (entry,) = (n for n in names if n.endswith("entry_points.txt"))
        return names, archive.read(metadata).decode(), archive.read(entry).decode()


def test_the_package_list_is_complete():
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == [
        f"{name}*" for name in PACKAGES
    ]
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found == set(PACKAGES)
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()], (
        "the wheel would leave them out"
    )


def test_the_wheel_holds_every_module_and_the_weights(wheel):
    names, _, _ = wheel
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert str(path.relative_to(ROOT)) in names
        assert f"{package}/py.typed" in names
    assert str(BUILTIN_WEIGHTS.relative_to(ROOT)) in names
    assert "cluster/rayjob.schema.json" in names
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {*PACKAGES, "gigarestore.py"}


def test_the_wheel_brings_the_command_and_names_its_needs(wheel):
    _, metadata, entry_points = wheel
    assert "gigarestore = cluster.cli:main" in entry_points
    assert re.search(r"^Requires-Python: >=3\.11$", metadata, re.MULTILINE)
    for need in (
        "ray",
        "torch",
        "numpy",
        "tifffile",
        "imagecodecs",
        "zarr",
        "pydantic",
        "typer",
        "rich",
    ):
        assert re.search(rf"^Requires-Dist: {need}\b", metadata, re.MULTILINE), need
    for extra in ("geo", "wsi", "s3", "diffusers", "arrays", "dev"):
        assert f"Provides-Extra: {extra}\n" in metadata


def test_kernels_has_the_version_of_the_distribution_below_the_other_kernels_package():
    # Hugging Face's `kernels` package is probed for by version; ours must never look like one that
    # it can use.
    assert kernels.__version__ == PROJECT["project"]["version"]
    assert tuple(map(int, kernels.__version__.split(".")[:2])) < (0, 9)
    assert installed().version == kernels.__version__


def test_no_other_distribution_owns_our_import_names():
    installed()
    owners = importlib.metadata.packages_distributions()
    assert {name: set(owners.get(name, [])) for name in PACKAGES} == {
        name: {"gigarestore"} for name in PACKAGES
    }


def test_doctor_finds_the_import_names_our_own():
    from cluster.doctor.local_checks import _shadowed

    installed()
    (check,) = _shadowed()
    assert check.verdict == "ok", check.text


def test_doctor_says_when_another_distribution_shadows_a_package(tmp_path):
    """Put a foreign `kernels` before ours, as an environment with Hugging Face's would, and ask in
    a new process.
    """
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("__version__ = '0.9.0'\n")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from cluster.doctor.local_checks import _shadowed\n"
        "print([(c.verdict, c.text) for c in _shadowed()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'fail'" in done.stdout
    assert str(tmp_path) in done.stdout


def test_every_pinned_requirement_of_ours_is_in_the_constraints():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^torch==2\.13\.0", pins, re.MULTILINE)
    for need in PROJECT["project"]["dependencies"]:
        name = re.match(r"[A-Za-z0-9_-]+", need)[0].replace("-", "[-_]")
        assert re.search(rf"^{name}==", pins, re.MULTILINE | re.IGNORECASE), f"{name} is not pinned"


def test_every_third_party_import_is_a_declared_dependency():
    declared = {
        re.match(r"[A-Za-z0-9_-]+", d)[0].lower() for d in PROJECT["project"]["dependencies"]
    }
    optional = PROJECT["project"]["optional-dependencies"]
    extras = {
        re.match(r"[A-Za-z0-9_-]+", d)[0].lower()
        for name in optional
        if name != "dev"
        for d in optional[name]
    }
    distribution = {
        "skimage": "scikit-image",
        "pywt": "pywavelets",
        "google_crc32c": "google-crc32c",
        "tomli_w": "tomli-w",
        "PIL": "pillow",
        "yaml": "pyyaml",
        "openslide": "openslide-python",
        "aiohttp": "ray",  # ray[default] brings both
        "requests": "ray",
    }
    ours = {*PACKAGES, *sys.stdlib_module_names}
    missing = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module]
                for name in {n.partition(".")[0] for n in names} - ours:
                    if distribution.get(name, name) not in declared | extras:
                        missing.add(f"{package}/{path.name}: {name}")
    assert not missing
