"""Find the networks that a file of weights holds, under whatever wrappers and prefixes training
left, and choose one of them.

Frameworks nest a state dict (`{"state_dict": ..., "epoch": 3}`) and prefix its keys (`module.`,
`model.`, `_orig_mod.`). The place of a network is the path of keys to its mapping followed by the
prefix of its parameters, joined by dots: `ema`, `state_dict.model`. A file with several networks
says nothing about which of them is meant: the user does, by `PATH#PLACE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kernels.denoisers.guided_diffusion.weights_file import FOREIGN, CheckpointError, read_file

FIRST_KEY = "input_blocks.0.0.weight"
"""Present in every guided-diffusion network."""

MAX_NESTING = 4
"""Wrappers within wrappers that are looked into."""

FEWEST_PARAMETERS = 20
"""A shorter list of tensors is no network."""

LATENT_PARTS = ("first_stage_model", "cond_stage_model", "scale_factor", "vae.")
"""What stands beside the network of a latent diffusion model."""

OPTIMIZER_KEYS = ("optimizer", "opt", "scaler", "param_groups")
"""Keys whose lists of tensors are no network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNetwork:
    """Hold one network of a file: its parameters by name, or in a list without names."""

    place: str
    """Keys and prefix that lead to it, joined by dots; empty for the file itself."""
    named: Mapping[str, Any] | None = None
    listed: tuple[Tensor, ...] = ()
    order: tuple[str, ...] = ()
    """Names of the parameters of another network of the same file, in their order."""


def split_choice(path: str | Path) -> tuple[Path, str | None]:
    """Split PATH#PLACE into the file and the place of a network within it, None where none is given
    or a file of the whole name exists.
    """
    whole = Path(path)
    text = str(path)
    if "#" not in text or whole.exists():
        return whole, None
    file, _, place = text.rpartition("#")
    return Path(file), place


def choose_network(path: Path, place: str | None) -> StoredNetwork:
    """Read a file and return its network at `place`, or its only one.

    Raises CheckpointError in one line as `read_file` does; where the file holds no network of this
    family, several and no place is given, or none at the place; and where it is of a latent model.
    """
    holds = read_file(path)
    found = list(_networks(holds, "", MAX_NESTING))
    if not found and not isinstance(holds, Mapping):
        raise CheckpointError(
            f"{path} is not a checkpoint: it holds a {type(holds).__name__}, not named tensors"
        )
    if not found:
        raise CheckpointError(
            f"{path} is not a guided-diffusion checkpoint: it is {_foreign_kind(holds)}"
        )
    chosen = _chosen(path, found, place)
    orders = {tuple(other.named) for other in found if other.named is not None}
    order = orders.pop() if len(orders) == 1 else ()
    return StoredNetwork(
        place=chosen.place,
        named=None if chosen.named is None else _checked(path, chosen.named),
        listed=chosen.listed,
        order=order,
    )


def _chosen(path: Path, found: list[StoredNetwork], place: str | None) -> StoredNetwork:
    """Return the network at a place, or the only one."""
    places = ", ".join(network.place or "the file itself" for network in found)
    if place is None:
        if len(found) > 1:
            raise CheckpointError(
                f"{path} holds several networks ({places}): "
                f"give PATH#KEY, for example {path.name}#{_example(found)}"
            )
        return found[0]
    exact = [network for network in found if network.place == place]
    within = [network for network in found if network.place.startswith(f"{place}.")]
    fits = exact or within
    if len(fits) == 1:
        return fits[0]
    what = "several networks" if fits else "no network"
    raise CheckpointError(f"{path} holds {what} at {place!r}: choose of {places}")


def _example(found: list[StoredNetwork]) -> str:
    averaged = [network.place for network in found if "ema" in network.place]
    return (averaged or [network.place for network in found if network.place])[0]


def _networks(holds: Any, place: str, nesting: int) -> Iterator[StoredNetwork]:
    """Yield the networks of whatever a file holds, outermost first."""
    if isinstance(holds, list | tuple):
        if len(holds) >= FEWEST_PARAMETERS and all(isinstance(value, Tensor) for value in holds):
            yield StoredNetwork(place=place, listed=tuple(holds))
        return
    if not isinstance(holds, Mapping):
        return
    values = {str(key): value for key, value in holds.items()}
    yield from _prefixed(values, place)
    for key, value in values.items():
        if nesting and key not in OPTIMIZER_KEYS and not key.startswith("optimizer"):
            yield from _networks(value, _joined(place, key), nesting - 1)


def _prefixed(values: Mapping[str, Any], place: str) -> Iterator[StoredNetwork]:
    """Yield the networks of one mapping: one for every prefix before the first parameter."""
    before = [key.removesuffix(FIRST_KEY) for key in values if key.endswith(FIRST_KEY)]
    prefixes = [prefix for prefix in before if not prefix or prefix.endswith(".")]
    if any(part in key for key in values for part in LATENT_PARTS):
        return
    for prefix in prefixes:
        deeper = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        named = {
            key.removeprefix(prefix): value
            for key, value in values.items()
            if key.startswith(prefix) and not (deeper and key.startswith(deeper))
        }
        yield StoredNetwork(place=_joined(place, prefix.rstrip(".")), named=named)


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _checked(path: Path, named: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the parameters; CheckpointError names what among them is no tensor."""
    for key, value in named.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds a {type(value).__name__} under {key!r}, expected a tensor"
            )
    return dict(named)


def _foreign_kind(holds: Mapping[Any, Any]) -> str:
    """Say of which other family a file is, by its keys at any depth."""
    keys = list(_keys(holds, MAX_NESTING))
    bare = [key.removeprefix("module.").removeprefix("model.") for key in keys]
    for prefix, kind in FOREIGN:
        if any(key.startswith(prefix) for key in (*keys, *bare)):
            return kind
    names = ", ".join(map(str, list(holds)[:3])) or "nothing"
    return f"something else, with {names}"


def _keys(holds: Mapping[Any, Any], nesting: int) -> Iterator[str]:
    for key, value in holds.items():
        yield str(key)
        if nesting and isinstance(value, Mapping):
            yield from _keys(value, nesting - 1)
