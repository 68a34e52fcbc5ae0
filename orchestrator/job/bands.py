"""How the bands of an image become the channels of a network, and back, without losing one. numpy
only.

    image's bands   network of C channels gets         what is constrained       published
    C               the bands                          every channel             the channels
    1, replicate    the band in every channel          every channel by it       their mean
    1, mean         free colour                        the channels' mean        their mean
    N, groups       pictures of C bands each, the      every channel by its      every band, the
                    last one of the last C bands       band                      mean of its copies
    fewer than C    a picture filled up with its last  every channel by its band as groups
                    band; noisy ones as single
    N, single       a picture a band, as replicate     every channel by its band as groups

One band replicated is the case N = 1 of the groups. Each picture draws noise of its own, so that
bands which are independent get invented detail that is; within a picture it is the network's.

Under the first pixel rules the last group was filled up with its last band, and all pictures of a
tile shared its noise (orchestrator.job.fields.pixel_rules).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.arrays import Array
from orchestrator.errors import PlanError

# The first of each is the default.
GREY_AS = ("replicate", "mean")
BANDS_AS = ("groups", "single")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """Map between the bands of an image and the pictures that a network restores."""

    count: int
    """Bands of the published image."""
    channels: int
    """Channels of the network."""
    groups: tuple[tuple[int, ...], ...]
    """Per picture: which stored band each channel holds."""
    grey: bool = False
    """True where the only band is the mean of the channels; working arrays then hold the channels.
    """

    @classmethod
    def build(
        cls,
        count: int,
        channels: int,
        *,
        grey_as: str = GREY_AS[0],
        bands_as: str = BANDS_AS[0],
        noisy: bool = False,
        fill_up: bool = False,
    ) -> Bands:
        """Map `count` bands to a network of `channels`; raises PlanError for an unknown rule.

        noisy: the bands carry noise, which a picture must have alike in all channels. fill_up: the
        last group is filled up with its last band, as under the first pixel rules.
        """
        for name, value, known in (("grey-as", grey_as, GREY_AS), ("bands-as", bands_as, BANDS_AS)):
            if value not in known:
                raise PlanError(f"--{name} {value!r} is unknown; choose {' or '.join(known)}")
        if count == 1 and channels > 1 and grey_as == "mean":
            return cls(count=1, channels=channels, groups=(tuple(range(channels)),), grey=True)
        few_and_noisy = noisy and not fill_up and count < channels
        single = (bands_as == "single" and count != channels) or few_and_noisy
        size = 1 if single else channels
        firsts = list(range(0, count, size))
        if count > channels and not fill_up:
            firsts[-1] = count - size
        groups = tuple(
            tuple(min(first + min(i, size - 1), count - 1) for i in range(channels))
            for first in firsts
        )
        return cls(count=count, channels=channels, groups=groups)

    @property
    def copies(self) -> int:
        """Channels of every picture that hold the same band; 1 where they differ.

        Noise of such a band is the same in all of them: sqrt(copies) of its deviation lies along
        the axis on which they are equal, and none across it.
        """
        if self.grey:
            return 1
        return self.channels if all(len(set(group)) == 1 for group in self.groups) else 1

    @property
    def stored(self) -> int:
        """Bands of the working arrays."""
        return self.channels if self.grey else self.count

    def split(self, bands: Array) -> list[Array]:
        """Return the pictures (C, h, w) of stored bands (stored, h, w)."""
        plain = tuple(range(self.stored))
        return [bands if group == plain else bands[list(group)] for group in self.groups]

    def join(self, pictures: list[Array]) -> Array:
        """Return the stored bands of restored pictures: of a band with several copies
        their mean.
        """
        if self.groups == (tuple(range(self.stored)),):
            return pictures[0]
        return np.stack([self._mean(pictures, band) for band in range(self.stored)])

    def _mean(self, pictures: list[Array], band: int) -> Array:
        groups = zip(pictures, self.groups, strict=True)
        copies = [
            picture[i] for picture, group in groups for i, held in enumerate(group) if held == band
        ]
        return (
            copies[0]
            if len(copies) == 1
            else np.asarray(np.mean(copies, axis=0, dtype=np.float64), np.float32)
        )

    def published(self, stored: Array) -> Array:
        """Return the bands to publish of stored ones."""
        return (
            stored.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
            if self.grey
            else stored
        )

    def describe(self) -> list[str]:
        """Say per picture what its channels hold, bands counted from 1; empty where bands and
        channels are the same.
        """
        if self.grey:
            return [f"band 1 is the mean of the network's {self.channels} channels"]
        if self.groups == (tuple(range(self.channels)),):
            return []
        return [
            f"group {number}: channels hold band {', '.join(str(band + 1) for band in group)}"
            for number, group in enumerate(self.groups, 1)
        ]
