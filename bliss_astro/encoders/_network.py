# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Encoder: the network from an image of any size to a posterior over catalogues.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from bliss_astro import _lazy
from bliss_astro.posteriors import TilePosterior
from bliss_astro.posteriors._head import TileHead
from bliss_astro.posteriors._source_encoders import SourceEncoders
from bliss_astro.rendering import adaptive_moments

from ._config import (
    FILTER_RADIUS,
    OLD_SETTINGS,
    WIDE_RADIUS,
    WIDE_SIGMAS,
    EncoderConfig,
)
from ._filters import image_planes, trim
from ._inputs import N_CONDITIONS, N_UNCERTAINTIES, EncoderInputs
from ._layers import (
    HIDDEN_CONDITIONS,
    N_BAND,
    BandLayers,
    ResidualBlock,
    band_conditions,
    conditions_by_band,
)
from ._weights import DEFAULT_ENCODER, ENCODERS, CardedNetwork


class Encoder(CardedNetwork):
    """
    A fully convolutional network whose forward pass returns a posterior.

    The image is rearranged into a quarter of its size (a half for tiles of
    2 px), where every position is a tile, and passes through residual
    blocks that the image's constants (noise, PSF, density ...) modulate.  Each band
    has a pass of the first layers; what others add to the reference band enters the
    blocks, or nothing where ``config.bands`` is `False`.
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
        galaxies, uncertainties = config.galaxies, config.uncertainties
        n_filters = config.matched_filter + galaxies * len(WIDE_SIGMAS)
        n_conditions = N_CONDITIONS + galaxies + uncertainties * N_UNCERTAINTIES
        n_conditions += config.bands * N_BAND
        self.stem_first = nn.Conv2d((3 + 2 * n_filters) * 4, stem, 3, padding=1)
        self.stem_second = nn.Conv2d(stem, stem, 3, padding=1)
        self.to_tiles = nn.Conv2d(stem * (config.tile_size // 2) ** 2, width, 1)
        self.blocks = nn.ModuleList(
            ResidualBlock(width) for _ in range(config.n_blocks)
        )
        self.modulation = nn.Sequential(
            nn.Conv2d(n_conditions, HIDDEN_CONDITIONS, 1),
            nn.SiLU(),
            nn.Conv2d(HIDDEN_CONDITIONS, width * (1 + 2 * config.n_blocks), 1),
        )
        nn.init.normal_(self.modulation[-1].weight, std=0.02)
        nn.init.zeros_(self.modulation[-1].bias)
        names = ('n_components', 'latent_dim', 'parameters')
        same = {name: getattr(config, name) for name in names}
        names = ('n_most', 'galaxies', 'shapes', 'bands')
        options = same | {name: getattr(config, name) for name in names}
        self.head = TileHead(width, width=config.head_width, **options)
        self.sources = None
        if config.sequence:
            same['shapes_only'] = config.shapes_only
            self.sources = SourceEncoders(n_conditions, width, **same)
        self.bands = BandLayers(config) if config.bands else None
        self._moments = adaptive_moments

    infer = _lazy.infer

    def save(self, path, *, overwrite=False, dtype='float32', designs=()):
        """
        Write the weights (safetensors) and, beside them, the card (JSON).

        Parameters
        ----------
        path : path_like
            Ends in ``.safetensors``; the card ``<path>.json`` holds the SHA-256 of
            the weights, and stands in them too.

        overwrite : bool, optional
            Replace existing files.

        dtype : {'float32', 'float16'}, optional
            Number format on disk; half precision halves the file, at relative
            errors of the weights of 5e-4.

        designs : list of `Encoder`, optional
            Other designs of the same weights, which the file then holds too; their
            cards are ``<name>.json`` in the same folder.

        Raises
        ------
        ValueError
            If the suffix or format is another, or a design has other weights.
        FileExistsError
            If a file exists and ``overwrite`` is `False`.
        """
        ENCODERS.save(path, [self, *designs], overwrite=overwrite, dtype=dtype)

    @classmethod
    def from_pretrained(cls, name=DEFAULT_ENCODER):
        """
        Load a bundled encoder by its name, or any by its path.

        Parameters
        ----------
        name : str or path_like, optional
            A name listed by `~bliss_astro.encoders.available_encoders`, or
            the path of a ``.safetensors`` file with its card beside it, or of a
            card; by default the one that `~bliss_astro.detection.detect_sources`
            takes.

        Returns
        -------
        encoder : `Encoder`
            Ready to use, on the CPU.

        Raises
        ------
        ValueError
            If the name is unknown, the card is missing or damaged, or the weights
            are not those that it was written for.
        FileNotFoundError
            If there is no such file.
        """

        def make(values):
            values = {OLD_SETTINGS.get(k, k): v for k, v in values.items()}
            values['parameters'] = tuple(values.get('parameters', ()))
            return cls(EncoderConfig(**values))

        name = DEFAULT_ENCODER if name is None else name
        return ENCODERS.load(name, make).to(memory_format=torch.channels_last)

    def with_design(self, *, sequence, shapes_only=False):
        """
        Return the same weights in another design.

        Parameters
        ----------
        sequence, shapes_only : bool
            As in `EncoderConfig`, for designs whose weights are there.

        Returns
        -------
        encoder : `Encoder`
            With weights of its own.

        Raises
        ------
        ValueError
            If weights for the design are missing.
        """
        design = {'sequence': sequence, 'shapes_only': shapes_only}
        config = dataclasses.replace(self.config, **design)
        with torch.random.fork_rng(devices=[]):
            other = Encoder(config)
        own, wanted = self.state_dict(), other.state_dict()
        missing = min(set(wanted) - set(own), default=None)
        if missing:
            design = f'sequence={sequence}, shapes_only={shapes_only}'
            msg = f'{self.name!r} has no weights for {design}: {missing} is missing'
            raise ValueError(msg)
        other.load_state_dict({name: own[name] for name in wanted})
        other.card = {**self.card, 'encoder': dataclasses.asdict(config)}
        other = other.to(self.device).to(memory_format=torch.channels_last)
        return other.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.to_tiles.weight.device

    @property
    def receptive_radius(self) -> int:
        """Distance in pixels beyond a tile's edge that its features depend on."""
        filtered = FILTER_RADIUS if self.config.matched_filter else 0
        filtered = WIDE_RADIUS if self.config.galaxies else filtered
        blocks = self.config.tile_size * 2 * self.config.n_blocks
        return 2 * 2 + blocks + 10 + filtered

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
        return self.inner_features(inputs).float()

    def inner_features(self, inputs, margins=(0, 0, 0, 0), *, stem=None):
        """
        Context features of the tiles within margins.

        Parameters
        ----------
        inputs : `EncoderInputs`
            For B windows of images.

        margins : tuple of int
            Tiles above, below, on the left and on the right that are only context.

        stem : tensor, optional
            From `stem`, where it is known already.

        Returns
        -------
        features : tensor ``(B, width, rows, columns)``
            In the precision of the convolutions, with channels last in memory.
        """
        # Each convolution of a block reaches a tile further: margins shrink by layer.
        reach = 2 * self.config.n_blocks
        hidden = self.stem(inputs, margins) if stem is None else stem
        (_, given), *others = (
            (rows, self.modulation[:-1](trim(own, margins, reach)))
            for rows, own in conditions_by_band(inputs, self._conditions(inputs))
        )
        if others:
            given = self.bands.join_conditions(given, others)
        hidden = hidden + self._modulation(given, 0)
        for index, block in enumerate(self.blocks, 1):
            margins = [min(margin, reach) for margin in margins]
            scale = self._modulation(given, 2 * index - 1, 1.0)
            hidden = block(hidden, scale, self._modulation(given, 2 * index))
            reach -= 2
            hidden, given = (trim(value, margins, reach) for value in (hidden, given))
            given = given.contiguous(memory_format=torch.channels_last)
        return F.silu(hidden)

    def stem(self, inputs, margins, planes=None):
        """
        Features of the pixels of all bands, which do not depend on the density.

        Parameters
        ----------
        inputs, margins
            As for `inner_features`.

        planes : tuple, optional
            Their ``image_planes``, where these are known already.

        Returns
        -------
        features : tensor ``(B, width, rows, columns)``
            With margins as wide as the blocks reach.
        """
        size, reach = self.config.tile_size, 2 * self.config.n_blocks
        # Its convolutions reach half a pixel of two further.
        stem_reach = reach + 4 // size
        if planes is None:
            own = {'margins': margins, 'reach': stem_reach}
            planes = image_planes(inputs, self.config, **own)
        ((_, _, first), *others), spectral = planes
        own = F.silu(self._first_layer(first))
        hidden = F.silu(self.stem_second(own))
        # The pixels of a tile become channels by a step as long as it.
        rest = size // 2
        weight = self.to_tiles.weight[..., 0, 0].unflatten(1, (-1, rest, rest))
        hidden = F.conv2d(hidden, weight, self.to_tiles.bias, stride=rest)
        if others:
            given = self.bands.given(self._conditions(inputs))
            given = trim(given, margins, stem_reach)
            others = ((*o, F.silu(self._first_layer(p))) for *o, p in others)
            hidden = hidden + self.bands(own, others, given, spectral)
        return trim(hidden, [min(margin, stem_reach) for margin in margins], reach)

    def _modulation(self, given, index, offset=0.0):
        """A part of the last layer of the modulation, and an offset."""
        layer = self.modulation[-1]
        part = slice(index * self.config.width, (index + 1) * self.config.width)
        return F.conv2d(given, layer.weight[part], layer.bias[part] + offset)

    def _first_layer(self, planes):
        # Its channels are the pixels of 2 x 2: the same as a step of two pixels.
        weight = self.stem_first.weight.unflatten(1, (-1, 2, 2))
        weight = weight.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return F.conv2d(planes, weight, self.stem_first.bias, stride=2, padding=2)

    def _conditions(self, inputs):
        inputs = inputs if self.config.bands else inputs.in_band(0)
        parts = inputs.condition_parts(psf_range=self.psf_range)
        if self.config.galaxies:
            population = inputs.population
            empty = torch.zeros_like(inputs.log_density[..., :1, :1])
            parts.append((empty if population is None else population)[:, None])
        if self.config.uncertainties:
            parts.append(inputs.uncertainties())
        if self.config.bands:
            parts.append(band_conditions(inputs))
        return parts

    def mask_inputs(self, inputs: EncoderInputs) -> EncoderInputs:
        """Return the inputs that this encoder has (``config.conditioning``)."""
        inputs = inputs if self.config.bands else inputs.in_band(0)
        return inputs.masked(self.config.conditioning)

    def forward(self, inputs: EncoderInputs) -> TilePosterior:
        """
        Return the posterior of the catalogues of B images.

        Parameters
        ----------
        inputs : `EncoderInputs`
            Inputs of B images.

        Returns
        -------
        posterior : `~bliss_astro.posteriors.TilePosterior`
            Distribution over the catalogues by tile.
        """
        inputs = self.mask_inputs(inputs)
        half = torch.is_autocast_enabled(inputs.image.device.type)
        return self.posterior(self.features(inputs), inputs, half=half)

    def posterior(self, features, inputs, *, half=False) -> TilePosterior:
        """
        Return the posterior that belongs to context features.

        Parameters
        ----------
        features : tensor ``(B, width, rows, columns)``
            From `features`.

        inputs : `EncoderInputs`
            Inputs from `mask_inputs`.

        half : bool, optional
            Whether encoders that follow detection convolve in bfloat16.
        """
        sources = None
        if self.sources is not None:
            # The encoders of stamps see the reference band.
            conditions = [part[:, 0] for part in self._conditions(inputs)]
            sources = self.sources, conditions, half
        with torch.autocast(features.device.type, enabled=False):
            return TilePosterior(
                *(features, inputs, self.head),
                tile_size=self.config.tile_size,
                patch_radius=self.config.patch_radius,
                sources=sources,
                moments=self._moments,
            )

    def use_galaxy_model(self, model):
        """
        Set the galaxy model of the latents, for training; inference needs none.

        Parameters
        ----------
        model : `~bliss_astro.galaxies.GalaxyAutoencoder`
            Model of the encoder's latent dimension.
        """
        wanted, found = self.config.latent_dim, model.latent_dim
        if wanted != found:
            raise ValueError(f"model has latent_dim {found}, the encoder's is {wanted}")
        self._moments = lambda psf, latent: (
            model.decode(latent).convolved(psf).adaptive_moments()
        )
