"""The guided-diffusion U-Net, rewritten from its description so that published checkpoints load
unchanged.

Sources: Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis" (NeurIPS 2021),
section 3 and appendix; Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models"
(ICML 2021). Module and parameter names are those of the published state dicts; nothing here reads
files (`kernels/denoisers/guided_diffusion/checkpoints.py` does).

Layers are left at torch's default initialisation, because this package loads weights and never
trains them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEFAULT_CHANNEL_MULT: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}
"""Width of each level relative to model_channels, by training size, where the flags leave
`channel_mult` empty.
"""

NORM_GROUPS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """Describe the architecture of a guided-diffusion network, or of its encoder half."""

    image_size: int
    """Training size in pixels; the network accepts any sides divisible by `multiple`."""
    in_channels: int = 3
    model_channels: int
    """Base width C; level i has int(channel_mult[i] * C) channels."""
    out_channels: int = 6
    """Image channels, twice that when the variance is learned; for a classifier, the number of
    classes.
    """
    num_res_blocks: int
    attention_ds: tuple[int, ...] = ()
    """Down-sampling factors (1, 2, 4, ...) at which attention follows each residual block."""
    channel_mult: tuple[float, ...]
    num_classes: int | None = None
    """Rows of the label table, or None for an unconditional network."""
    num_heads: int = 1
    num_head_channels: int = -1
    """Channels per attention head; where it is not -1 it decides the number of heads, and
    `num_heads` is unused.
    """
    num_heads_upsample: int = -1
    """Heads in the decoder, -1 for the same as `num_heads`."""
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    """Channel layout of qkv: [q,k,v][head][d] when true (new), [head][q,k,v][d] when false
    (legacy).
    """
    dropout: float = 0.0

    @property
    def multiple(self) -> int:
        """Give the number of pixels that both sides of an input must be divisible by."""
        return int(2 ** (len(self.channel_mult) - 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Give the number of channels of each level, finest first."""
        return tuple(int(m * self.model_channels) for m in self.channel_mult)

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> UNetConfig:
        """Read the published command-line flags (`num_channels`, ...) or the field names
        (`model_channels`, ...).

        In the flags `attention_resolutions` is a text of sizes in pixels ("32,16,8"); among the
        field names it holds down-sampling factors. Raises ValueError where a required flag is
        absent or `channel_mult` has no default.
        """
        if "num_channels" in flags:
            return cls(
                model_channels=_required(flags, "num_channels"),
                in_channels=3,
                out_channels=6 if flags.get("learn_sigma", False) else 3,
                num_classes=flags.get("num_classes", 1000)
                if flags.get("class_cond", False)
                else None,
                **_size_flags(
                    flags,
                    str(flags.get("attention_resolutions", "16,8")),
                    flags.get("channel_mult", ""),
                ),
                num_res_blocks=_required(flags, "num_res_blocks"),
                **_present(flags, _SHARED_FLAGS),
            )
        attention = flags.get("attention_ds", flags.get("attention_resolutions", ()))
        return cls(
            image_size=_required(flags, "image_size"),
            model_channels=_required(flags, "model_channels"),
            num_res_blocks=_required(flags, "num_res_blocks"),
            channel_mult=tuple(_required(flags, "channel_mult")),
            attention_ds=tuple(int(ds) for ds in attention),
            **_present(flags, ("in_channels", "out_channels", "num_classes", *_SHARED_FLAGS)),
        )


_SHARED_FLAGS = (
    "num_heads",
    "num_head_channels",
    "num_heads_upsample",
    "use_scale_shift_norm",
    "resblock_updown",
    "use_new_attention_order",
    "dropout",
)


def _required(flags: Mapping[str, Any], name: str) -> Any:
    if name not in flags:
        raise ValueError(f"the model flags lack {name!r}: given {', '.join(sorted(flags))}")
    return flags[name]


def _present(flags: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: flags[name] for name in names if name in flags}


def _size_flags(
    flags: Mapping[str, Any], attention_resolutions: str, channel_mult: str
) -> dict[str, Any]:
    """Resolve the flags whose meaning depends on the training size."""
    size = int(_required(flags, "image_size"))
    if not channel_mult and size not in DEFAULT_CHANNEL_MULT:
        raise ValueError(
            f"image_size {size} has no default channel_mult (64, 128, 256, 512 have): "
            "give channel_mult"
        )
    mult = (
        tuple(float(m) for m in channel_mult.split(","))
        if channel_mult
        else DEFAULT_CHANNEL_MULT[size]
    )
    attention = sorted(size // int(r) for r in attention_resolutions.split(",") if r)
    return {"image_size": size, "channel_mult": mult, "attention_ds": tuple(attention)}


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Embed timesteps (B,) as [cos(t f), sin(t f)], f_k = max_period^(-k / half): float32 (B, dim),
    odd dim padded.
    """
    half = dim // 2
    k = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequency = torch.exp(-math.log(max_period) * k / half)
    angle = timesteps[:, None].float() * frequency[None]
    features = torch.cat([angle.cos(), angle.sin()], dim=-1)
    return F.pad(features, (0, dim % 2))


class GroupNorm32(nn.GroupNorm):
    """Normalise in float32 whatever the dtype of the features, as the checkpoints were trained."""

    def __init__(self, channels: int) -> None:
        super().__init__(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = super().forward(x.float())
        return normed.to(x.dtype)


class Upsample(nn.Module):
    """Double both sides by nearest neighbour, then convolve where `with_conv`."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        if with_conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.with_conv = with_conv

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        out: Tensor = self.conv(x) if self.with_conv else x
        return out


class Downsample(nn.Module):
    """Halve both sides: a stride-2 convolution where `with_conv`, otherwise the mean of 2 x 2
    pixels.
    """

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.op: nn.Module = nn.AvgPool2d(2)
        if with_conv:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class ResBlock(nn.Module):
    """Add to x a two-convolution residual modulated by the time (and class) embedding.

    `resample` changes the size between the first activation and the first convolution, and on the
    skip path alike.
    """

    def __init__(
        self,
        config: UNetConfig,
        channels: int,
        out_channels: int,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = config.use_scale_shift_norm
        emb_out = 2 * out_channels if self.scale_shift else out_channels
        self.in_layers = nn.Sequential(
            GroupNorm32(channels),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(),
            nn.Linear(4 * config.model_channels, emb_out),
        )
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.resample = resample or nn.Identity()
        self.skip_connection: nn.Module = nn.Identity()
        if channels != out_channels:
            self.skip_connection = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(self.resample(act(norm(x))))
        e = self.emb_layers(emb).to(h.dtype)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + e)
        for layer in rest:
            h = layer(h)
        out: Tensor = self.skip_connection(self.resample(x)) + h
        return out


def qkv_attention(qkv: Tensor, heads: int, new_order: bool) -> Tensor:
    """Attend over positions: (B, 3 * heads * d, N) -> (B, heads * d, N).

    `new_order` says how the channels of qkv are laid out, see `UNetConfig.use_new_attention_order`.
    The upstream scaling of q and k by d^(-1/4) each is the product's usual 1/sqrt(d).
    """
    batch, width, positions = qkv.shape
    d = width // (3 * heads)
    if new_order:
        q, k, v = qkv.reshape(batch, 3, heads, d, positions).transpose(-1, -2).unbind(1)
    else:
        q, k, v = qkv.reshape(batch, heads, 3, d, positions).transpose(-1, -2).unbind(2)
    a = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, d)
    return a.transpose(-1, -2).reshape(batch, heads * d, positions)


class AttentionBlock(nn.Module):
    """Add to x multi-head self-attention over all its positions."""

    def __init__(
        self,
        config: UNetConfig,
        channels: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        self.heads = num_heads
        if config.num_head_channels != -1:
            self.heads = channels // config.num_head_channels
        if self.heads < 1 or channels % self.heads:
            raise ValueError(
                f"attention over {channels} channels cannot have {self.heads} heads: "
                f"set num_heads or num_head_channels to a divisor of {channels}"
            )
        self.new_order = config.use_new_attention_order
        self.norm = GroupNorm32(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat))
        attended = qkv_attention(qkv, self.heads, self.new_order)
        h: Tensor = self.proj_out(attended)
        return (flat + h).reshape(x.shape)


class Block(nn.Sequential):
    """Run layers in order, handing the embedding to those that take it."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


def time_embedding(config: UNetConfig) -> nn.Sequential:
    """Build the two-layer network from the timestep embedding (C) to the conditioning vector
    (4 C).
    """
    width = config.model_channels
    wide = 4 * width
    return nn.Sequential(
        nn.Linear(width, wide),
        nn.SiLU(),
        nn.Linear(wide, wide),
    )


def build_encoder(config: UNetConfig) -> tuple[nn.ModuleList, list[int]]:
    """Build the input blocks; give them with the number of channels that each of them puts out."""
    ch = config.widths[0]
    blocks = [Block(nn.Conv2d(config.in_channels, ch, 3, padding=1))]
    channels = [ch]
    for level, width in enumerate(config.widths):
        for _ in range(config.num_res_blocks):
            layers: list[nn.Module] = [ResBlock(config, ch, width)]
            if 2**level in config.attention_ds:
                layers.append(AttentionBlock(config, width, config.num_heads))
            blocks.append(Block(*layers))
            channels.append(ch := width)
        if level < len(config.widths) - 1:
            by_block = config.resblock_updown
            down: nn.Module = Downsample(ch, with_conv=not by_block)
            if by_block:
                down = ResBlock(config, ch, ch, resample=down)
            blocks.append(Block(down))
            channels.append(ch)
    return nn.ModuleList(blocks), channels


def build_middle(config: UNetConfig) -> Block:
    """Build the block at the coarsest level: residual, attention, residual."""
    ch = config.widths[-1]
    return Block(
        ResBlock(config, ch, ch),
        AttentionBlock(config, ch, config.num_heads),
        ResBlock(config, ch, ch),
    )


def build_decoder(config: UNetConfig, skips: list[int]) -> nn.ModuleList:
    """Build the output blocks; `skips` are the channels of the encoder's outputs, taken from the
    end.
    """
    heads = config.num_heads if config.num_heads_upsample == -1 else config.num_heads_upsample
    waiting = list(skips)
    ch = config.widths[-1]
    blocks = []
    for level, width in reversed(list(enumerate(config.widths))):
        for i in range(config.num_res_blocks + 1):
            layers: list[nn.Module] = [ResBlock(config, ch + waiting.pop(), width)]
            ch = width
            if 2**level in config.attention_ds:
                layers.append(AttentionBlock(config, ch, heads))
            if level and i == config.num_res_blocks:
                by_block = config.resblock_updown
                up: nn.Module = Upsample(ch, with_conv=not by_block)
                if by_block:
                    up = ResBlock(config, ch, ch, resample=up)
                layers.append(up)
            blocks.append(Block(*layers))
    return nn.ModuleList(blocks)


def check_input(config: UNetConfig, x: Tensor) -> None:
    """Raise ValueError unless x is (B, in_channels, H, W) with sides divisible by the network's
    multiple.
    """
    if x.ndim != 4 or x.shape[1] != config.in_channels:
        raise ValueError(f"the network takes (B, {config.in_channels}, H, W), got {tuple(x.shape)}")
    m = config.multiple
    (h, w) = x.shape[-2:]
    if h % m or w % m or not h * w:
        raise ValueError(
            f"a tile of {h} x {w} does not fit the network: "
            f"both sides must be multiples of {m} pixels"
        )


def torso_to(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert in place the convolutions of the three torsos only, as upstream does for half
    precision.

    Norms, linear layers, embeddings and the output head stay float32.
    """
    for name in ("input_blocks", "middle_block", "output_blocks"):
        for module in getattr(model, name, nn.Identity()).modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                module.to(dtype)


class UNetModel(nn.Module):
    """Predict the noise (and, where learned, the variance) of a noisy image at a timestep."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.time_embed = time_embedding(config)
        if config.num_classes is not None:
            self.label_emb = nn.Embedding(config.num_classes, 4 * config.model_channels)
        self.input_blocks, skips = build_encoder(config)
        self.middle_block = build_middle(config)
        self.output_blocks = build_decoder(config, skips)
        width = config.widths[0]
        self.out = nn.Sequential(
            GroupNorm32(width), nn.SiLU(), nn.Conv2d(width, config.out_channels, 3, padding=1)
        )

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        y: Tensor | None = None,
    ) -> Tensor:
        """Evaluate at x (B, C, H, W), timesteps (B,) and classes y (B,): (B, out_channels, H, W)
        float32.

        Raises ValueError where the sides do not fit, or y is missing or superfluous for this
        network.
        """
        check_input(self.config, x)
        emb = self._embed(timesteps, y)
        h = x.to(next(self.input_blocks.parameters()).dtype)
        skips = []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        out: Tensor = self.out(h.to(x.dtype))
        return out

    def _embed(self, timesteps: Tensor, y: Tensor | None) -> Tensor:
        classes = self.config.num_classes
        if (y is None) != (classes is None):
            need = "needs no class labels"
            if classes is not None:
                need = f"needs class labels y in 0..{classes - 1}"
            given = "none were" if y is None else "some were"
            raise ValueError(f"this network {need}: {given} given")
        features = timestep_embedding(timesteps, self.config.model_channels)
        emb: Tensor = self.time_embed(features)
        if y is None:
            return emb
        return emb + self.label_emb(y)
