"""Import an object that the user names as `package.module:name`: a denoiser, an operator."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from hashlib import blake2b
from pathlib import Path
from typing import Any


def load_object(name: str, what: str) -> Any:
    """Import `package.module:name`; the current folder is searched too, after everything else.

    what: how an error calls the object. Raises ValueError on one line where the name is malformed,
    the module is missing or fails to import, or it holds no such object.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise ValueError(
            f"{what} {name!r} is not of the form package.module:name; "
            "give for example mypackage.models:net"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a console script, unlike python -m, does not search it
    try:
        named: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{what} {name!r}: importing {module_name} failed: no module named {error.name!r}"
            ) from error
        raise ValueError(
            f"{what} {name!r}: no module named {error.name!r}; "
            "install it, or run in the folder that holds it"
        ) from error
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ValueError(
            f"{what} {name!r}: importing {module_name} failed: {in_one_line(error)}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(named, part):
            raise ValueError(f"{what} {name!r}: {module_name} has no {attribute}; check the name")
        named = getattr(named, part)
    return named


def in_one_line(error: Exception) -> str:
    """Say what an error of one's own code is, and where: file and line of the last frame that is
    neither ours nor of an installed package.
    """
    words = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{words} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    if not own:
        return words
    return f"{words} ({own[-1].filename}:{own[-1].lineno})"


def _is_own(filename: str) -> bool:
    """Tell whether a file is the user's."""
    ours = Path(__file__).parents[1]
    packages = {ours / name for name in ("kernels", "storage", "orchestrator", "cluster")}
    path = Path(filename)
    installed = "site-packages" in path.parts or filename.startswith("<frozen")
    standard = Path(os.__file__).parent in path.parents
    return not installed and not standard and not packages & set(path.parents)


def source_hash(named: Any) -> str:
    """Hash the file that defines an object, and its attribute `content`, which names what the file
    does not hold.
    """
    digest = blake2b(digest_size=16)
    defined = inspect.isclass(named) or inspect.isroutine(named)
    kind = named if defined else type(named)
    try:
        source = inspect.getsourcefile(kind)
    except TypeError:
        source = None
    digest.update(Path(source).read_bytes() if source else repr(kind).encode())
    digest.update(str(getattr(named, "content", "")).encode())
    return digest.hexdigest()
