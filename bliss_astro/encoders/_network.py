# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The encoder: from an image of any size to a posterior over catalogues.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from bliss_astro.posteriors import TilePosterior
from bliss_astro.posteriors._catalog_head import CatalogHead
from bliss_astro.posteriors._head import StarHead
from bliss_astro.posteriors._source_encoders import SourceEncoders
from bliss_astro.psf._mixture import DEFAULT_SHAPE, asinh
from bliss_astro.rendering import adaptive_moments

from ._inputs import N_CONDITIONS, N_UNCERTAINTIES, EncoderInputs
from ._matched_filter import (
    FILTER_RADIUS,
    WIDE_FILTERS,
    WIDE_RADIUS,
    matched_filter,
    wide_filters,
)

__all__ = ['Encoder', 'EncoderConfig']

TOLD = ('all', 'image+background', 'image')
# Noise in electrons and PSF that encoders which are not told them take: those
# of run 94, camcol 1, field 12.
_REFERENCE = {'psf': DEFAULT_SHAPE, 'noise': 865.0**0.5}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """
    Size of an encoder.

    Parameters
    ----------
    tile_size : {2, 4}
        Side of a tile in pixels.

    n_most : int
        Largest number K of sources in a tile.

    width, n_blocks : int
        Channels and number of the residual blocks.

    stem_width : int
        Channels at half resolution.

    head_width : int
        Channels of the head's hidden layer.

    n_components : int
        Components of the mixtures.

    patch_radius : int
        Half-size in pixels of the cut-outs that stars are measured on.

    matched_filter : bool
        Whether the network is given the matched-filtered image too.

    galaxies : bool
        Whether sources are stars or galaxies; else all are stars.

    shapes : bool
        Whether shapes of galaxies are inferred.

    sequence : bool
        Whether detection is followed by encoders of their own for the type of each
        source and for its flux and shape (Hansen et al. 2022), rather than one pass
        telling all.

    shapes_only : bool
        Whether what follows detection tells shapes alone, and types and fluxes are
        those of the one pass.

    latent_dim : int
        If not 0, shapes are points in the latent space of a learned galaxy model of
        that dimension (`~bliss_astro.galaxies.GalaxyAutoencoder`) instead of bulges and
        disks.

    uncertainties : bool
        Whether errors of PSF and background, and the PSF's asymmetry, are inputs.

    told : {'all', 'image+background', 'image'}
        What the encoder is told; the lesser ones are for comparison (the
        networks (ii) and (i) of Patel et al. 2025).
    """

    tile_size: int = 4
    n_most: int = 2
    width: int = 96
    n_blocks: int = 4
    stem_width: int = 48
    head_width: int = 128
    n_components: int = 3
    patch_radius: int = 6
    matched_filter: bool = True
    galaxies: bool = False
    shapes: bool = False
    sequence: bool = False
    shapes_only: bool = False
    latent_dim: int = 0
    uncertainties: bool = False
    told: str = 'all'

    def __post_init__(self):
        if self.tile_size not in (2, 4):
            msg = f'tile_size must be 2 or 4, got {self.tile_size}'
            raise ValueError(msg)
        if self.told not in TOLD:
            msg = f'told must be one of {TOLD}, got {self.told!r}'
            raise ValueError(msg)
        if self.shapes and not self.galaxies:
            msg = 'shapes needs galaxies = true: stars have no shapes to infer'
            raise ValueError(msg)
        if self.sequence and not self.shapes:
            msg = 'sequence needs shapes = true: its last encoder infers them'
            raise ValueError(msg)
        if self.shapes_only and not self.sequence:
            msg = 'shapes_only needs sequence = true'
            raise ValueError(msg)
        if self.latent_dim and not self.shapes:
            msg = 'latent_dim needs shapes = true'
            raise ValueError(msg)
        for field in dataclasses.fields(self):
            if field.name == 'told' or (field.name, self.latent_dim) == (
                'latent_dim',
                0,
            ):
                continue
            value = getattr(self, field.name)
            if isinstance(field.default, bool):
                if value is not True and value is not False:
                    msg = f'{field.name} must be true or false, got {value!r}'
                    raise ValueError(msg)
            elif not isinstance(value, int) or value < 1:
                msg = f'{field.name} must be a positive integer, got {value!r}'
                raise ValueError(msg)


class _ResidualBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.bias)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, value, scale, shift):
        hidden = self.first(F.silu(value)) * (1 + scale) + shift
        return value + self.second(F.silu(hidden))


class Encoder(nn.Module):
    """
    A fully convolutional network whose forward pass returns a posterior.

    The image is rearranged into a quarter of its size (a half for tiles of
    2 px), where every position is a tile, and passes through residual
    blocks that the image's constants (noise, PSF, density ...) modulate.
    No layer depends on the size of the image, and a tile depends on
    nothing further away than `receptive_radius`.

    Parameters
    ----------
    config : `EncoderConfig`, optional
        Sizes.

    Examples
    --------
    >>> from bliss_astro.encoders import Encoder, EncoderConfig
    >>> encoder = Encoder(EncoderConfig(width=16, n_blocks=1))
    >>> encoder.receptive_radius
    30
    """

    def __init__(self, config: EncoderConfig | None = None):
        super().__init__()
        self.config = config = EncoderConfig() if config is None else config
        stem, width = config.stem_width, config.width
        n_channels = 5 if config.matched_filter else 3
        n_conditions = N_CONDITIONS
        if config.galaxies:
            n_channels += 2 * WIDE_FILTERS
            n_conditions += 1
        if config.uncertainties:
            n_conditions += N_UNCERTAINTIES
        self.stem_first = nn.Conv2d(n_channels * 4, stem, 3, padding=1)
        self.stem_second = nn.Conv2d(stem, stem, 3, padding=1)
        rest = config.tile_size // 2
        self.to_tiles = nn.Conv2d(stem * rest**2, width, 1)
        self.blocks = nn.ModuleList(
            _ResidualBlock(width) for _ in range(config.n_blocks)
        )
        self.modulation = nn.Sequential(
            nn.Conv2d(n_conditions, 64, 1),
            nn.SiLU(),
            nn.Conv2d(64, width * (1 + 2 * config.n_blocks), 1),
        )
        nn.init.normal_(self.modulation[-1].weight, std=0.02)
        nn.init.zeros_(self.modulation[-1].bias)
        sizes = {
            'width': config.head_width,
            'n_most': config.n_most,
            'n_components': config.n_components,
        }
        if config.galaxies:
            self.head = CatalogHead(
                width, shapes=config.shapes, latent_dim=config.latent_dim, **sizes
            )
        else:
            self.head = StarHead(width, **sizes)
        self.sources = None
        if config.sequence:
            self.sources = SourceEncoders(
                n_conditions,
                width,
                latent_dim=config.latent_dim,
                shapes_only=config.shapes_only,
            )
        self._moments = adaptive_moments
        self.card = {}

    def save(self, path, *, overwrite=False, dtype='float32'):
        """
        Write the weights (safetensors) and, beside them, the card (JSON).

        Parameters
        ----------
        path : path_like
            Ends in ``.safetensors``.

        overwrite : bool, optional
            Replace existing files.

        dtype : {'float32', 'float16'}, optional
            How numbers are kept.
        """
        from ._pretrained import save_encoder

        save_encoder(self, path, overwrite=overwrite, dtype=dtype)

    @classmethod
    def from_pretrained(cls, name=None):
        """
        Load a bundled encoder by its name, or any by its path.

        Parameters
        ----------
        name : str or path_like, optional
            A name listed by `~bliss_astro.encoders.available_encoders`, or
            the path of a ``.safetensors`` file with its card beside it; by
            default the one that `~bliss_astro.detection.detect_sources` takes.

        Returns
        -------
        encoder : `Encoder`
            Ready to use, on the CPU.
        """
        from ._pretrained import DEFAULT_ENCODER, load_encoder

        return load_encoder(DEFAULT_ENCODER if name is None else name)

    def with_design(self, *, sequence, shapes_only=False):
        """
        The same weights in another design.

        Parameters
        ----------
        sequence, shapes_only : bool
            As in `EncoderConfig`; only what is there can be used.

        Returns
        -------
        encoder : `Encoder`
            That shares nothing with this one.
        """
        config = dataclasses.replace(
            self.config, sequence=sequence, shapes_only=shapes_only
        )
        with torch.random.fork_rng(devices=[]):
            other = Encoder(config)
        own, wanted = self.state_dict(), other.state_dict()
        missing = sorted(set(wanted) - set(own))
        if missing:
            msg = (
                f'the encoder {self.name!r} has no weights for sequence={sequence}, '
                f'shapes_only={shapes_only}: {missing[0]} is missing'
            )
            raise ValueError(msg)
        other.load_state_dict({name: own[name].clone() for name in wanted})
        other.card = {**self.card, 'encoder': dataclasses.asdict(config)}
        other = other.to(self.device).to(memory_format=torch.channels_last)
        return other.eval().requires_grad_(False)

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.to_tiles.weight.device

    @property
    def receptive_radius(self) -> int:
        """Pixels beyond a tile's edge that can influence its features."""
        filtered = FILTER_RADIUS if self.config.matched_filter else 0
        if self.config.galaxies:
            filtered = WIDE_RADIUS
        blocks = self.config.tile_size * 2 * self.config.n_blocks
        return 2 * 2 + blocks + 10 + filtered

    @property
    def name(self) -> str:
        """Name on the card, or ``'untitled'``."""
        return self.card.get('name', 'untitled')

    @property
    def psf_range(self):
        """Range of the PSF's features in training, from the card; or None."""
        return self.card.get('domain', {}).get('psf_features')

    def features(self, inputs: EncoderInputs) -> torch.Tensor:
        """
        Context features of all tiles.

        Parameters
        ----------
        inputs : `EncoderInputs`
            For B images of any size.

        Returns
        -------
        features : tensor ``(B, width, rows, columns)``
            In single precision; the convolutions run in bfloat16 inside
            of an autocast region.
        """
        size = self.config.tile_size
        image, bad = inputs.image, inputs.mask
        ny, nx = image.shape[1:]
        border = (0, -nx % size, 0, -ny % size)
        good = F.pad((~bad).to(image), border)
        image = F.pad(image, border)
        # Linear near the noise, logarithmic far above it.
        pixels = [asinh(image), asinh(image / 30), 1 - good]
        if self.config.matched_filter:
            with torch.autocast(image.device.type, enabled=False):
                filtered = matched_filter(image, inputs, size)
            pixels += [asinh(filtered), asinh(filtered / 30)]
        if self.config.galaxies:
            with torch.autocast(image.device.type, enabled=False):
                for filtered in wide_filters(image, inputs, size):
                    pixels += [asinh(filtered), asinh(filtered / 30)]
        pixels = torch.stack(pixels, 1)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        hidden = F.silu(self.stem_first(F.pixel_unshuffle(pixels, 2)))
        hidden = F.silu(self.stem_second(hidden))
        if size == 4:
            hidden = F.pixel_unshuffle(hidden, 2)
        hidden = self.to_tiles(hidden)
        change = self.modulation(self._conditions(inputs))
        first, *changes = change.chunk(1 + 2 * len(self.blocks), 1)
        hidden = hidden + first
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, changes[2 * index], changes[2 * index + 1])
        return F.silu(hidden).float()

    def _conditions(self, inputs):
        parts = [inputs.conditions(psf_range=self.psf_range)]
        if self.config.galaxies:
            population = inputs.population
            if population is None:
                population = torch.zeros_like(inputs.log_density[..., :1, :1])
            parts.append(population)
        if self.config.uncertainties:
            parts.append(inputs.uncertainties())
        h = max(part.shape[2] for part in parts)
        w = max(part.shape[3] for part in parts)
        return torch.cat([part.expand(-1, -1, h, w) for part in parts], 1)

    def told(self, inputs: EncoderInputs) -> EncoderInputs:
        """What of the inputs this encoder is told (``config.told``)."""
        return inputs.told(self.config.told, **_REFERENCE)

    def forward(self, inputs: EncoderInputs) -> TilePosterior:
        """
        The posterior of the catalogues of B images.

        Parameters
        ----------
        inputs : `EncoderInputs`
            What is known of the images.

        Returns
        -------
        posterior : `~bliss_astro.posteriors.TilePosterior`
            To sample from, or to evaluate.
        """
        inputs = self.told(inputs)
        half = torch.is_autocast_enabled(inputs.image.device.type)
        return self.posterior(self.features(inputs), inputs, half=half)

    def posterior(self, features, inputs, *, half=False) -> TilePosterior:
        """
        The posterior that belongs to context features.

        Parameters
        ----------
        features : tensor ``(B, width, rows, columns)``
            From `features`.

        inputs : `EncoderInputs`
            What this encoder was `told`.

        half : bool, optional
            Whether encoders that follow detection convolve in bfloat16.
        """
        sources = None
        if self.sources is not None:
            sources = self.sources, self._conditions(inputs), half
        with torch.autocast(features.device.type, enabled=False):
            return TilePosterior(
                features,
                inputs,
                self.head,
                tile_size=self.config.tile_size,
                patch_radius=self.config.patch_radius,
                sources=sources,
                moments=self._moments,
            )

    def use_galaxy_model(self, model):
        """
        Tell what latents look like, which training needs and inference does not.

        Parameters
        ----------
        model : `~bliss_astro.galaxies.GalaxyAutoencoder`
            Of the encoder's latent dimension.
        """
        if model.latent_dim != self.config.latent_dim:
            msg = (
                f"model has latent_dim {model.latent_dim}, the encoder's is "
                f'{self.config.latent_dim}'
            )
            raise ValueError(msg)
        self._moments = lambda psf, latent: (
            model.decode(latent).convolved(psf).adaptive_moments()
        )
