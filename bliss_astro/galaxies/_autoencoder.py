# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Galaxy model: a variational autoencoder of galaxy profiles.
"""

import numpy as np
import torch

from bliss_astro._arguments import must, require, torch_generator
from bliss_astro.encoders._weights import GALAXY_MODELS, CardedNetwork
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS

from ._networks import (
    GalaxyDecoder,
    GalaxyEncoder,
    GalaxyLatentPosterior,
    GalaxyModelConfig,
    refine,
)

# Gaussians times pixels that are rendered at once: some megabytes.
_PIECE = 1_000_000
# Stamps that are encoded at once.
_STAMPS = 64
# Gaussians of a PSF.
_N_PSF_GAUSSIANS = 19


class GalaxyAutoencoder(CardedNetwork):
    """
    A variational autoencoder of galaxies: shapes as points in a latent space.

    The prior of the latent z is standard normal. The decoder makes of it a sum
    of concentric elliptical Gaussians of unit flux, which any PSF turns into
    another such sum; the encoder makes of a stamp a normal distribution of
    latent and logarithm of the flux.

    Parameters
    ----------
    config : `GalaxyModelConfig`, optional
        Sizes.

    Attributes
    ----------
    card : dict
        How the weights came about; empty before training.

    Examples
    --------
    >>> from bliss_astro.galaxies import GalaxyAutoencoder
    >>> model = GalaxyAutoencoder.from_pretrained()
    >>> model
    <GalaxyAutoencoder 'galaxies': latent_dim=8, 12 Gaussians>
    >>> latent = model.sample(3, rng=1)
    >>> latent.shape
    torch.Size([3, 8])
    >>> model.decode(latent).weight.shape
    torch.Size([3, 12])
    """

    def __init__(self, config: GalaxyModelConfig | None = None):
        super().__init__()
        self.config = GalaxyModelConfig() if config is None else config
        self.decoder = GalaxyDecoder(self.config)
        self.encoder = GalaxyEncoder(self.config)

    def __repr__(self):
        return (
            f'<GalaxyAutoencoder {self.name!r}: latent_dim={self.latent_dim}, '
            f'{self.config.n_components} Gaussians>'
        )

    @property
    def latent_dim(self) -> int:
        """Dimension D of the latent."""
        return self.config.latent_dim

    def save(self, path, *, overwrite=False):
        """
        Write the weights (safetensors) and, beside them, the card (JSON).

        Parameters
        ----------
        path : path_like
            Ends in ``.safetensors``.

        overwrite : bool, optional
            Replace existing files.
        """
        GALAXY_MODELS.save(path, [self], overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, name='galaxies', *, latent_dim=None):
        """
        Load a bundled model by its name, or any by its path.

        Parameters
        ----------
        name : str or path_like, optional
            ``'galaxies'``, or the path of a ``.safetensors`` file with its
            card beside it.

        latent_dim : int, optional
            Required dimension of the latent.

        Returns
        -------
        model : `GalaxyAutoencoder`
            Ready to use.

        Raises
        ------
        ValueError
            If the name is unknown, the card is missing or damaged, the weights
            are not those that the card was written for, or their latent
            dimension is not ``latent_dim``.
        """
        model = GALAXY_MODELS.load(
            name, lambda values: cls(GalaxyModelConfig(**values))
        )
        if latent_dim not in (None, model.latent_dim):
            msg = (
                f'latent_dim of the weights {str(name)!r} is {model.latent_dim}, got '
                f'latent_dim={latent_dim}; train a model with latent_dim = '
                f'{latent_dim} in [galaxies] of its configuration'
            )
            raise ValueError(msg)
        return model

    @staticmethod
    def available() -> list[str]:
        """
        Return the names of the galaxy models that come with the package.

        Examples
        --------
        >>> from bliss_astro.galaxies import GalaxyAutoencoder
        >>> GalaxyAutoencoder.available()
        ['galaxies']
        """
        return GALAXY_MODELS.available()

    def sample(self, n, *, rng=None):
        """
        Draw latents from their prior.

        Parameters
        ----------
        n : int
            Number of latents.

        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        latent : tensor ``(n, D)``
            Standard normal.
        """
        return torch.randn(n, self.latent_dim, generator=torch_generator(rng))

    def _check_latent(self, latent, *, n_axes=1):
        value = torch.as_tensor(latent, dtype=torch.float32)
        if value.dim() < n_axes or value.shape[-1] != self.latent_dim:
            lead = '..., ' if n_axes == 1 else 'B, S, '
            msg = (
                f'latent must have the shape ({lead}{self.latent_dim}), because '
                f'latent_dim of these weights is {self.latent_dim}; got '
                f'{tuple(value.shape)}'
            )
            raise ValueError(msg)
        return value

    def decode(self, latent):
        """
        Return galaxies of latents.

        Parameters
        ----------
        latent : tensor ``(..., D)``
            Any real numbers; the prior is standard normal.

        Returns
        -------
        mixture : `GalaxyMixture`
            Galaxies of unit flux; lengths in pixels of ``config.pixel_scale``.

        Raises
        ------
        ValueError
            If the last axis has not ``latent_dim`` elements.
        """
        return self.decoder(self._check_latent(latent))

    def render(
        self, psf, x, y, flux, latent, *, size, radius=DEFAULT_NORMALIZATION_RADIUS
    ):
        """
        Draw batches of galaxies seen through the PSF of each image.

        The arguments are those of `~bliss_astro.rendering.render_galaxies`, with
        latents in place of bulge + disk shapes. All light of a galaxy is drawn
        on the whole image.

        Parameters
        ----------
        psf : tensor ``(B, 8)``
            PSF of each image, see `bliss_astro.psf.SHAPE_NAMES`.

        x, y : tensor ``(B, S)``
            Centres in pixels; galaxies may lie outside the image.

        flux : tensor ``(B, S)``
            Total fluxes, for a PSF of unit flux within the normalisation
            radius; zero for unused places, which cost nothing.

        latent : tensor ``(B, S, D)``
            Latents.

        size : tuple of int
            ``(ny, nx)`` of the images.

        radius : float, optional
            The normalisation radius in pixels.

        Returns
        -------
        images : tensor ``(B, ny, nx)``
            In the unit of ``flux``; the PSF's 19 Gaussians and the galaxy's K
            are convolved exactly.

        Raises
        ------
        ValueError
            If the last axis of ``latent`` has not ``latent_dim`` elements.
        """
        latent = self._check_latent(latent, n_axes=3)
        images = x.new_zeros((len(x), *size))
        image, place = torch.nonzero(flux, as_tuple=True)
        n_gaussians = _N_PSF_GAUSSIANS * self.config.n_components
        piece = max(1, _PIECE // (n_gaussians * size[0] * size[1]))
        parts = (image, *(v[image, place] for v in (x, y, flux, latent)))
        if len(image) == 0:
            return images
        for k, x0, y0, f, z in zip(*(part.split(piece) for part in parts), strict=True):
            seen = self.decoder(z).convolved(psf[k], radius=radius)
            drawn = seen.image(x0, y0, size=size) * f[:, None, None]
            images = images.index_add(0, k, drawn.to(images))
        return images

    @torch.no_grad()
    def encode(
        self,
        image,
        psf,
        background,
        *,
        read_noise=0.0,
        x=None,
        y=None,
        n_refine=4,
        flux_slope=0.5,
    ):
        """
        Infer latents and fluxes of galaxies from stamps.

        Parameters
        ----------
        image : array_like ``(B, ny, nx)`` or ``(ny, nx)``
            Electrons, with the background in them; one galaxy each.

        psf : array_like ``(B, 8)`` or ``(8,)``
            PSF of each stamp, see `bliss_astro.psf.SHAPE_NAMES`.

        background, read_noise : array_like ``(B,)`` or float
            Sky in electrons per pixel; noise without light in electrons.

        x, y : array_like ``(B,)`` or float, optional
            Centres of the galaxies in pixels of the stamp; its middle by default.

        n_refine : int, optional
            Number of Gauss-Newton steps that refine the network's distribution.

        flux_slope : float, optional
            The steps take the logarithm of a flux f to have a prior that is
            proportional to ``f**-flux_slope``. The default is that of the NPE
            paper's prior at 5 nmgy, the faintest that are seen well; the
            network itself was trained with 0.

        Returns
        -------
        posterior : `GalaxyLatentPosterior`
            Posterior of latent and logarithm of the flux.

        Raises
        ------
        ValueError
            If shapes do not fit, a number is not finite, or the background is
            not positive.
        """
        image = _tensor('image', image)
        image = image[None] if image.dim() == 2 else image
        sound, got = image.dim() == 3, tuple(image.shape)
        require(sound, 'image', 'be (B, ny, nx) or (ny, nx)', got)
        n, ny, nx = image.shape
        psf = _tensor('psf', psf, n, 8)
        background = _tensor('background', background, n)
        variance = background + _tensor('read_noise', read_noise, n) ** 2
        if not bool((variance > 0).all()):
            msg = (
                'background must be positive, or read_noise where it is zero, got a '
                f'variance of {float(variance.min()):g}'
            )
            raise ValueError(msg)
        x = _tensor('x', (nx - 1) / 2 if x is None else x, n)
        y = _tensor('y', (ny - 1) / 2 if y is None else y, n)
        stamps = image - background[:, None, None]
        inputs = [part.split(_STAMPS) for part in (stamps, psf, variance, x, y)]
        steps = {'n_steps': n_refine, 'flux_slope': flux_slope}
        means, factors = [], []
        for part in zip(*inputs, strict=True):
            posterior = self.encoder(*part)
            if n_refine > 0:
                posterior = refine(self.decoder, posterior, *part, **steps)
            means.append(posterior.mean)
            factors.append(posterior.factor)
        return GalaxyLatentPosterior(torch.cat(means), torch.cat(factors))


def _tensor(name, value, *shape):
    """A finite tensor, of a shape where one is given."""
    if not isinstance(value, torch.Tensor):
        value = torch.from_numpy(np.array(value, dtype=np.float32))
    value = value.detach().float()
    require(torch.isfinite(value).all(), name, 'be finite', 'nan or inf')
    # The same for all stamps, or a row for each.
    if shape and value.shape not in (shape, shape[1:]):
        allowed = f'be {shape[1:]} or {shape}'
        raise ValueError(must(name, allowed, tuple(value.shape)))
    return value.expand(shape) if shape else value
