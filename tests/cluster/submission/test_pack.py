"""The code that goes along with a job: all of it, nothing else, and never more than the cluster
takes.
"""

import subprocess
import sys

import pytest

from cluster.submission.code_package import PACKAGES, pack
from orchestrator.errors import PlanError


@pytest.fixture
def source(tmp_path):
    """Four packages of one module each."""
    for name in PACKAGES:
        folder = tmp_path / "source" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"# {name}\n")
    return tmp_path / "source"


def names(folders):
    return sorted(
        str(path.relative_to(folder.parent))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    )


def test_what_is_packed_runs(tmp_path):
    folders = pack(tmp_path / "code")
    assert [folder.name for folder in folders] == list(PACKAGES)
    code = "import cluster, kernels; from cluster.cli import _run; print(kernels.__file__);"
    code += "raise SystemExit(_run(['--help']))"
    env = {"PATH": "", "PYTHONPATH": str(tmp_path / "code")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "code"))
    assert any(path.suffix == ".safetensors" for path in (tmp_path / "code" / "kernels").rglob("*"))


def test_what_is_not_code_stays_here(source, tmp_path):
    for name in ("__pycache__/a.pyc", ".git/objects/x", ".hidden", "half.partial", "stale.pyc"):
        path = source / "kernels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    assert names(pack(tmp_path / "code", source)) == sorted(
        f"{name}/__init__.py" for name in PACKAGES
    )


def test_too_large_a_package_is_refused_naming_its_largest_file(source, tmp_path):
    (source / "storage" / "big.bin").write_bytes(bytes(3000))
    (source / "storage" / "small.bin").write_bytes(bytes(1000))
    pack(tmp_path / "fits", source, limit=5000)
    with pytest.raises(PlanError, match=r"the largest: storage/big\.bin.*--no-ship"):
        pack(tmp_path / "code", source, limit=4000)


def test_rays_name_for_a_package_follows_its_content_and_not_its_time(source, tmp_path):
    """A rebuilt package of the same version has another name on the cluster, so that its new code
    is what runs.
    """
    from ray._private.runtime_env.packaging import get_uri_for_directory

    def uri(folder):
        return get_uri_for_directory(
            str(pack(tmp_path / folder, source)[0]), include_gitignore=True
        )

    first = uri("first")
    same = uri("same")
    (source / PACKAGES[0] / "__init__.py").write_text("# changed\n")
    assert first == same
    assert uri("changed") != first
