"""What the rooms of storage may import of each other; two formats never know of each other."""

import ast

import pytest

from tests.places import ROOT

ALLOWED = {
    "storage": set(),
    "storage.zarr_format": {"storage"},
    "storage.run_store": {"storage", "storage.zarr_format"},
    "storage.publishing": {"storage", "storage.zarr_format"},
    "storage.export": {"storage", "storage.zarr_format"},
    "storage.readers.common": {"storage"},
    "storage.readers.raster": {"storage", "storage.readers.common"},
    "storage.readers.tiff": {"storage", "storage.readers.common"},
    "storage.readers.zarr_arrays": {"storage", "storage.readers.common", "storage.zarr_format"},
    "storage.readers": {
        "storage",
        "storage.zarr_format",
        "storage.readers.common",
        "storage.readers.raster",
        "storage.readers.tiff",
        "storage.readers.zarr_arrays",
    },
}
FOLDERS = {room: ROOT.joinpath(*room.split(".")) for room in ALLOWED}


def room_of(module, name):
    """Return the room that `from module import name` reaches into."""
    for candidate in (f"{module}.{name}", module):
        path = ROOT.joinpath(*candidate.split("."))
        if path.with_suffix(".py").is_file():
            return candidate.rpartition(".")[0]
    return module


def imported_rooms(path):
    """Return the rooms of storage that a module imports, anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        room_of(node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "storage"
        for alias in node.names
    }


def test_every_folder_of_storage_is_a_room_of_the_table():
    folders = {path.parent for path in (ROOT / "storage").rglob("*.py")}
    assert folders == set(FOLDERS.values())


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room):
    imports = {path.name: imported_rooms(path) for path in FOLDERS[room].glob("*.py")}
    beyond = {name: rooms - ALLOWED[room] - {room} for name, rooms in imports.items()}
    assert not {name: rooms for name, rooms in beyond.items() if rooms}


def test_no_two_rooms_import_each_other():
    for room, allowed in ALLOWED.items():
        for other in allowed:
            assert room not in ALLOWED[other]
