"""Hold the small prior that ships with the software: a local U-Net, its preconditioning, and its
eps adapter.

Every layer is a convolution, so a pixel of the output depends on a finite window of the input only:
there is no normalisation over the image and no attention. Tile size is therefore free, and a tile
with enough context gives the same pixels as the whole image. What the network knows: edges,
shading, simple textures; no objects.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kernels.denoiser_info import BUILTIN_WEIGHTS, PREDICTOR_WEIGHTS, DenoiserInfo, file_hash
from kernels.schedule import linear_alpha_bar

# Standard deviation of clean images in [-1, 1] that the preconditioning assumes (Karras et al.
# 2022, Table 1).
SIGMA_DATA = 0.5
# Written into every file of this family, so that a foreign safetensors file is refused by name.
FORMAT = "gigarestore-prior-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorConfig:
    """Describe the shape of a local U-Net."""

    image_channels: int = 3
    channels: tuple[int, ...] = (64, 96, 128)
    """Features per level, finest first; each level halves the resolution."""
    blocks: tuple[int, ...] = (2, 2, 2)
    """Residual blocks per level and direction; the coarsest level, which has one direction, takes
    twice as many.
    """
    shuffle: int = 2
    """Side of the pixel blocks folded into channels before the first convolution, px."""
    embedding: int = 64
    """Width of the noise-level embedding."""

    @property
    def multiple(self) -> int:
        """Return what both sides of an input must be divisible by, px."""
        return self.shuffle * 2 ** (len(self.channels) - 1)

    @classmethod
    def from_json(cls, text: str) -> PriorConfig:
        """Read the JSON made by `to_json`; raise ValueError when it is not one."""
        try:
            fields: dict[str, Any] = {}
            for name, value in json.loads(text).items():
                fields[name] = tuple(value) if isinstance(value, list) else value
            return cls(**fields)
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"not the configuration of a prior: {text[:80]!r} ({error})"
            ) from error

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))


class LogSigmaEmbedding(nn.Module):
    """Embed the noise level by Fourier features of log(sigma)/4: (B,) -> (B, width)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(32, width)
        self.output = nn.Linear(width, width)
        self.register_buffer("frequencies", 2 ** torch.linspace(-1, 2.5, 16), persistent=False)

    def forward(self, level: Tensor) -> Tensor:
        """Return the embedding (B, width) of levels (B,)."""
        angle = level[:, None] * self.frequencies.to(level.dtype)
        features = torch.cat([angle.sin(), angle.cos()], 1)
        hidden = F.silu(self.hidden(features))
        return F.silu(self.output(hidden))


class ResidualBlock(nn.Module):
    """Add conv(silu(modulated conv(x))) to x; the noise level scales and shifts the hidden layer
    (FiLM).
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        _zero(self.modulation)
        # Without normalisation the residual branches must start small, or the sum of them grows
        # with depth.
        with torch.no_grad():
            self.conv_out.weight.mul_(0.3)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Return (B, channels, H, W) for x of that shape and embedded levels (B, embedding)."""
        gain, shift = self.modulation(embedded)[..., None, None].chunk(2, 1)
        modulated = torch.addcmul(shift, self.conv_in(x), 1 + gain)
        return x + self.conv_out(F.silu(modulated))


class LocalUNet(nn.Module):
    """Map (B, C, H, W) and log(sigma)/4 (B,) to (B, C, H, W); H and W multiples of
    `config.multiple`.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        width = config.embedding
        folded = config.image_channels * config.shuffle**2
        pairs = list(itertools.pairwise(channels))

        self.embedding = LogSigmaEmbedding(width)
        self.stem = nn.Conv2d(folded, channels[0], 3, padding=1)
        self.encoder = _sides(config)
        self.middle = _blocks(channels[-1], width, 2 * config.blocks[-1])
        self.decoder = _sides(config)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.ups = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.head = nn.Conv2d(channels[0], folded, 3, padding=1)
        # A zero head makes the untrained network return the preconditioner's own linear estimate.
        _zero(self.head)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return F of x (B, C, H, W) at levels (B,), like x."""
        embedded = self.embedding(level)
        h = self.stem(F.pixel_unshuffle(x, self.config.shuffle))
        skips = []
        for blocks, down in zip(self.encoder, self.downs, strict=True):
            for block in blocks:
                h = block(h, embedded)
            skips.append(h)
            h = down(h)

        for block in self.middle:
            h = block(h, embedded)

        levels = list(zip(self.ups, self.decoder, skips, strict=True))
        for up, blocks, skip in reversed(levels):
            enlarged = F.pixel_shuffle(up(h), 2)
            h = enlarged.contiguous(memory_format=torch.channels_last) + skip
            for block in blocks:
                h = block(h, embedded)
        return F.pixel_shuffle(self.head(h), self.config.shuffle)


def _blocks(channels: int, width: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(channels, width) for _ in range(count))


def _sides(config: PriorConfig) -> nn.ModuleList:
    """Build the blocks of all levels but the coarsest, in one direction."""
    levels = zip(config.channels[:-1], config.blocks[:-1], strict=True)
    return nn.ModuleList(_blocks(channels, config.embedding, count) for channels, count in levels)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def network_output(
    net: nn.Module,
    z: Tensor,
    sigma: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Evaluate F(c_in z; log(sigma)/4), the quantity that the loss sees (Karras et al. 2022, Eq.
    7).

    z: (B, C, H, W) float32, z = x0 + sigma n with x0 in [-1, 1]. sigma: (B,) float32 > 0. Returns
    float32.
    """
    c_in = (sigma.square() + SIGMA_DATA**2).rsqrt()[:, None, None, None]
    scaled = (z * c_in).to(dtype)
    level = (sigma.log() / 4).to(dtype)
    output = net(scaled.contiguous(memory_format=torch.channels_last), level)
    return output.float()


def network_target(x0: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
    """Return the value of F at which the estimate equals x0: (x0 - c_skip z) / c_out."""
    s = sigma[:, None, None, None]
    total = s.square() + SIGMA_DATA**2
    c_skip = SIGMA_DATA**2 / total
    return (x0 - c_skip * z) * total.sqrt() / (s * SIGMA_DATA)


def estimate_x0(output: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
    """Return D(z; sigma) = c_skip z + c_out F, the estimate of the clean image (Karras et al. 2022,
    Eq. 7).
    """
    s = sigma[:, None, None, None]
    total = s.square() + SIGMA_DATA**2
    c_skip = SIGMA_DATA**2 / total
    c_out = s * SIGMA_DATA * total.rsqrt()
    return c_skip * z + c_out * output


def estimate_eps(output: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
    """Return (z - D(z; sigma)) / sigma without the cancellation that the literal form has at small
    sigma.
    """
    s = sigma[:, None, None, None]
    total = s.square() + SIGMA_DATA**2
    of_z = s / total
    of_output = SIGMA_DATA * total.rsqrt()
    return of_z * z - of_output * output


class BuiltinDenoiser:
    """Serve a local U-Net as the eps-predictor of a variance-preserving diffusion.

    With a = sqrt(alpha_bar_t) and s = sqrt(1 - alpha_bar_t), z = x_t / a is the clean image plus
    noise of standard deviation sigma = s / a: the two parameterisations are the same up to this
    scaling.
    """

    def __init__(
        self,
        net: LocalUNet,
        info: DenoiserInfo,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.info = info
        self.dtype = dtype
        self.device = torch.device(device)
        frozen = net.eval().requires_grad_(False)
        self.net = frozen.to(self.device, dtype).to(memory_format=torch.channels_last)
        alpha_bar = linear_alpha_bar(info.n_timesteps)
        sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
        self._a = torch.from_numpy(np.sqrt(alpha_bar)).float().to(self.device)
        self._sigma = torch.from_numpy(sigma).float().to(self.device)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return eps (B, C, H, W) float32 for x_t (B, C, H, W) float32 and base timesteps t (B,)
        int64.

        Raises ValueError when the channels or the sides do not suit the network.
        """
        self._check(x_t)
        sigma = self._sigma[t]
        z = x_t / self._a[t][:, None, None, None]
        output = network_output(self.net, z, sigma, self.dtype)
        return estimate_eps(output, z, sigma)

    def to(self, device: torch.device | str) -> BuiltinDenoiser:
        """Return this denoiser with its weights and tables on `device`."""
        return BuiltinDenoiser(self.net, self.info, device, self.dtype)

    def _check(self, x_t: Tensor) -> None:
        channels, height, width = x_t.shape[1:]
        multiple = self.info.multiple
        if channels != self.info.channels:
            raise ValueError(
                f"{self.info.name} takes {self.info.channels} channels, not {channels}; "
                "convert the image"
            )
        if height % multiple or width % multiple:
            raise ValueError(
                f"tile {height} x {width}: "
                f"{self.info.name} needs sides that are multiples of {multiple} px"
            )


def load_builtin(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> BuiltinDenoiser:
    """Load the prior that ships with the software.

    dtype: float32 by default; bfloat16 about halves the time on processors that compute in it, at
    about 1e-2 in eps.
    """
    return load_prior(BUILTIN_WEIGHTS, device, dtype, name="builtin")


def load_prior(
    path: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    name: str = "",
    kind: str = FORMAT,
) -> BuiltinDenoiser:
    """Load a prior of this family from a safetensors file, float16 or float32; kind: its format.

    Raises ValueError when the file is missing, is no prior, or its tensors do not have the shapes
    it announces.
    """
    path = Path(path)
    config, state = read_prior(path, kind)
    net = LocalUNet(config)
    _check_state(path, net.state_dict(), state)
    weights = {key: value.float() for key, value in state.items()}
    net.load_state_dict(weights)
    info = _info(path, config, name)
    return BuiltinDenoiser(net, info, device, dtype)


def describe_prior(path: Path | str) -> DenoiserInfo:
    """Describe a prior of this family; errors as for `load_prior`."""
    path = Path(path)
    config, state = read_prior(path)
    with torch.device("meta"):
        net = LocalUNet(config)
    _check_state(path, net.state_dict(), state)
    return _info(path, config, "")


def _info(path: Path, config: PriorConfig, name: str) -> DenoiserInfo:
    predicts = config.image_channels == 3
    files = (path, PREDICTOR_WEIGHTS) if predicts else (path,)
    stored = sum(file.stat().st_size for file in files)
    return DenoiserInfo(
        name=name or f"prior:{path.name}",
        channels=config.image_channels,
        multiple=config.multiple,
        content=file_hash(path),
        weight_bytes=2 * stored,  # stored as float16
        predicts=predicts,
        local=True,
    )


def read_prior(path: Path, kind: str = FORMAT) -> tuple[PriorConfig, dict[str, Tensor]]:
    """Read configuration and tensors of a prior file; raise ValueError when it is not one of the
    kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found_kind = metadata.get("format")
            if found_kind != kind:
                raise ValueError(
                    f"{path} is no prior of this family: format {found_kind}, not {kind}"
                )
            names = file.keys()  # safe_open is no mapping
            state = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"cannot read the prior {path}: {error}; give a .safetensors file"
        ) from error
    return PriorConfig.from_json(metadata.get("config", "")), state


def _check_state(path: Path, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a file's tensors are not those of the network that it announces."""
    wrong = sorted(expected.keys() ^ state.keys())
    for key in expected.keys() & state.keys():
        if expected[key].shape != state[key].shape:
            wrong.append(key)
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} tensors do not fit the announced network, "
            f"first {wrong[0]}; export it again"
        )
