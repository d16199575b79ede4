# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Star fields, dithered, exposed, aligned and stacked.
"""

import astropy.units as u
import numpy as np
import torch

from bliss_astro._devices import choose_device
from bliss_astro._random import torch_generator
from bliss_astro.exposures._camera import add_noise
from bliss_astro.priors import StarPrior
from bliss_astro.psf._mixture import (
    DEFAULT_NORMALIZATION_RADIUS,
    DEFAULT_SHAPE,
    broaden_shape,
)
from bliss_astro.rendering._torch import render_stars, star_factors

from ._align import align_bilinear, coadd_noise, interpolate_last
from ._images import SimulatedImages

__all__ = ['CoaddSimulator']

NOISE_ORDERS = ('before_alignment', 'after_alignment')

# Pixels of exposures that are worked on at a time: some megabytes.
_CACHE_PIXELS = 300_000


class CoaddSimulator:
    """
    Simulate coadds of d dithered exposures of a star field.

    The model of the coadd paper (Wang et al. 2022, section 2): every
    exposure has one dither, uniform within half a pixel; it is recorded
    with photon noise, resampled bilinearly onto the undithered grid, and
    averaged with weights ``1 / (background + signal)``.  A single exposure
    (d = 1) is neither dithered nor resampled.

    Parameters
    ----------
    n_exposures : int, optional
        Depth d.

    prior : `~bliss_astro.priors.StarPrior`, optional
        What is on the sky.

    psf : `~bliss_astro.psf.PSFModel` or array_like ``(8,)``, optional
        PSF of every exposure, pixel included; by default that of run 94,
        camcol 1, field 12.

    background : float, optional
        Sky of one exposure in electrons per pixel.

    read_noise : float, optional
        In electrons.

    shape : tuple of int, optional
        ``(ny, nx)`` of the coadd; exposures have a pixel more on each side.

    margin : float, optional
        Stars keep this distance in pixels from the edges of the coadd; a
        negative margin puts some outside.

    dither : float, optional
        Largest dither in pixels along each axis, at most 1.

    noise_order : {'before_alignment', 'after_alignment'}, optional
        The paper's text adds noise to the exposures (default); its
        published code aligns noiseless images and adds independent noise
        to those.

    bad_pixels : `~bliss_astro.exposures.BadPixelPrior` or None, optional
        Blemishes of the coadds.

    tolerance : float, optional
        Error of the renderer relative to a star's peak.

    device : str or `torch.device`, optional
        Where to simulate.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator
    >>> simulator = CoaddSimulator(5)
    >>> coadd, truth = simulator.simulate(rng=0)
    >>> coadd.data.shape
    (88, 88)
    """

    def __init__(
        self,
        n_exposures=1,
        prior=None,
        *,
        psf=None,
        background=865.0,
        read_noise=0.0,
        shape=(88, 88),
        margin=24,
        dither=0.5,
        noise_order='before_alignment',
        bad_pixels=None,
        tolerance=1e-6,
        device='cpu',
    ):
        if int(n_exposures) != n_exposures or n_exposures < 1:
            msg = f'n_exposures must be a positive integer, got {n_exposures!r}'
            raise ValueError(msg)
        if noise_order not in NOISE_ORDERS:
            msg = f'noise_order must be one of {NOISE_ORDERS}, got {noise_order!r}'
            raise ValueError(msg)
        if not 0 <= dither <= 1:
            msg = f'dither must lie between 0 and 1 pixel, got {dither}'
            raise ValueError(msg)
        if not (np.isfinite(background) and background > 0):
            msg = f'background must be positive and finite, got {background}'
            raise ValueError(msg)
        if not (np.isfinite(read_noise) and read_noise >= 0):
            msg = f'read_noise must be finite and not negative, got {read_noise}'
            raise ValueError(msg)
        if len(shape) != 2 or min(shape) < 1:
            msg = f'shape must be two positive integers (ny, nx), got {shape!r}'
            raise ValueError(msg)
        if 2 * margin >= min(shape):
            msg = f'margin {margin} leaves no room for stars in shape {shape}'
            raise ValueError(msg)
        self.n_exposures = int(n_exposures)
        self.prior = StarPrior() if prior is None else prior
        self.background = float(background)
        self.read_noise = float(read_noise)
        self.shape = (int(shape[0]), int(shape[1]))
        self.margin = margin
        self.dither = float(dither)
        self.noise_order = noise_order
        self.bad_pixels = bad_pixels
        self.tolerance = float(tolerance)
        self.device = choose_device(device)
        self.normalization_radius = float(
            getattr(psf, 'normalization_radius', DEFAULT_NORMALIZATION_RADIUS)
        )
        if psf is None:
            psf = DEFAULT_SHAPE
        vector = np.asarray(getattr(psf, 'shape_vector', psf), float)
        if vector.shape != (8,):
            msg = f'psf must be a PSFModel or 8 shape parameters, got {psf!r}'
            raise ValueError(msg)
        self.psf_shape = torch.as_tensor(vector, dtype=torch.float32)

    def __repr__(self):
        return (
            f'CoaddSimulator({self.n_exposures}, shape={self.shape}, '
            f'background={self.background:g}, noise_order={self.noise_order!r})'
        )

    @property
    def region(self):
        """Where stars may lie: ``(x_low, x_high, y_low, y_high)``."""
        ny, nx = self.shape
        m = self.margin
        return (m - 0.5, nx - m - 0.5, m - 0.5, ny - m - 0.5)

    def simulate(self, *, rng=None):
        """
        Draw one coadd with its truth.

        Parameters
        ----------
        rng : int, `numpy.random.Generator` or None, optional
            Source of randomness.

        Returns
        -------
        coadd : `~bliss_astro.exposures.Exposure`
            In electrons, with background, noise, noise correlation and
            effective PSF.

        truth : `~astropy.table.QTable`
            ``x_centroid, y_centroid, flux``, brightest first.
        """
        from astropy.table import QTable

        from bliss_astro.exposures import Exposure
        from bliss_astro.psf import PSFModel

        batch = self.sample_batch(1, generator=torch_generator(rng, device=self.device))
        exposure = Exposure(
            batch.data[0].cpu().numpy() * u.electron,
            background=float(batch.background[0]) * u.electron,
            bkg_error=float(batch.bkg_error[0]) * u.electron,
            effective_gain=float(batch.effective_gain[0]),
            mask=batch.mask[0].cpu().numpy(),
            psf=PSFModel.from_shape(
                batch.psf[0].double().cpu().numpy(),
                normalization_radius=self.normalization_radius,
            ),
            noise_correlation=tuple(batch.correlation[0].tolist()),
            meta={'n_exposures': self.n_exposures, 'noise_order': self.noise_order},
        )
        flux, order = torch.sort(batch.flux[0], descending=True)
        order = order[flux > 0]
        columns = [
            v[0][order].double().cpu().numpy() for v in (batch.x, batch.y, batch.flux)
        ]
        truth = QTable(
            [columns[0], columns[1], columns[2] * u.electron],
            names=('x_centroid', 'y_centroid', 'flux'),
        )
        return exposure, truth

    def sample_batch(
        self,
        n_images: int,
        *,
        psf: torch.Tensor | None = None,
        background: torch.Tensor | None = None,
        read_noise: torch.Tensor | None = None,
        density: torch.Tensor | None = None,
        flux_min: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> SimulatedImages:
        """
        Draw a batch of coadds on the simulator's device.

        Parameters
        ----------
        n_images : int
            Number of coadds B.

        psf : tensor ``(B, 8)``, optional
            PSF shapes of the exposures, image by image.

        background, read_noise, density, flux_min : tensor ``(B,)``, optional
            Override the simulator's own values, image by image.

        generator : `torch.Generator`, optional
            On the simulator's device.

        Returns
        -------
        batch : `SimulatedImages`
            Images and truth.
        """
        full = torch.ones(n_images, device=self.device)
        if psf is None:
            psf = self.psf_shape.to(self.device).expand(n_images, 8)
        background = full * self.background if background is None else background
        read_noise = full * self.read_noise if read_noise is None else read_noise
        density = full * self.prior.density if density is None else density
        floor = full * self.prior.flux_min if flux_min is None else flux_min
        x_low, x_high, y_low, y_high = self.region
        x, y, flux, _ = self.prior.sample_batch(
            n_images,
            (y_high - y_low, x_high - x_low),
            density=density,
            flux_min=floor,
            generator=generator,
            device=self.device,
        )
        x, y = x + (x_low + 0.5), y + (y_low + 0.5)
        dither = self.draw_dithers(n_images, generator=generator)
        data = self.expose_batch(
            x,
            y,
            flux,
            psf=psf,
            background=background,
            read_noise=read_noise,
            dither=dither,
            generator=generator,
        )
        variance, corr_x, corr_y, kernel = coadd_noise(
            dither, interpolated=self.noise_order == 'before_alignment'
        )
        mask = self.draw_mask(data, background=background, generator=generator)
        return SimulatedImages(
            data=data,
            background=background,
            bkg_error=((background + read_noise**2) * variance).sqrt(),
            effective_gain=1 / variance,
            correlation=torch.stack([corr_x, corr_y], -1),
            psf=broaden_shape(psf, kernel),
            density=density,
            flux_min=floor,
            region=full[:, None] * full.new_tensor(self.region),
            mask=mask,
            x=x,
            y=y,
            flux=flux,
        )

    def draw_dithers(self, n_images, *, generator=None):
        """
        Draw the dithers of the exposures of coadds.

        Parameters
        ----------
        n_images : int
            Number of coadds B.

        generator : `torch.Generator`, optional
            On the simulator's device.

        Returns
        -------
        dither : tensor ``(B, d, 2)``
            Pixels in x and y; zeros for a single exposure.
        """
        if self.n_exposures == 1:
            return torch.zeros(n_images, 1, 2, device=self.device)
        unit = torch.rand(
            n_images, self.n_exposures, 2, generator=generator, device=self.device
        )
        return (2 * unit - 1) * self.dither

    def expose_batch(
        self,
        x,
        y,
        flux,
        *,
        psf,
        background,
        read_noise,
        dither,
        extended=None,
        generator=None,
    ):
        """
        Coadds of given sources.

        Parameters
        ----------
        x, y, flux : tensor ``(B, S)``
            Stars in pixels and electrons; flux 0 in unused places.

        psf : tensor ``(B, 8)``
            PSF shapes of the exposures.

        background, read_noise : tensor ``(B,)``
            Electrons.

        dither : tensor ``(B, d, 2)``
            From `draw_dithers`.

        extended : tensor ``(B, ny, nx)``, optional
            Mean electrons of sources that are no points, as they lie on the
            coadd.  Their photon noise is drawn with the
            correlation that the alignment gives to noise on average.

        generator : `torch.Generator`, optional
            On the simulator's device.

        Returns
        -------
        data : tensor ``(B, ny, nx)``
            Electrons of one exposure, with the background.
        """
        fields = (psf, background, read_noise)
        if self.n_exposures == 1:
            return self._expose_once(x, y, flux, *fields, extended, generator)
        data = self._stack(x, y, flux, *fields, dither, generator)
        if extended is None:
            return data
        variance, *correlation, _ = coadd_noise(
            dither, interpolated=self.noise_order == 'before_alignment'
        )
        noise = torch.empty_like(data).normal_(generator=generator)
        noise = noise * (extended.clamp(min=0) * variance[:, None, None]).sqrt()
        return data + extended + _correlated(noise, *correlation)

    def _expose_once(
        self, x, y, flux, psf, background, read_noise, extended, generator
    ):
        signal = render_stars(
            psf,
            x,
            y,
            flux,
            size=self.shape,
            radius=self.normalization_radius,
            tolerance=self.tolerance,
        )
        if extended is not None:
            signal = signal + extended
        return add_noise(
            signal,
            background[:, None, None],
            read_noise=read_noise[:, None, None],
            generator=generator,
        )

    def _stack(self, x, y, flux, psf, background, read_noise, dither, generator):
        ny, nx = self.shape
        n_images, n_exposures = dither.shape[:2]
        out = torch.empty(n_images, ny, nx, device=self.device)
        n_stars = (flux > 0).sum(1)
        piece = n_images
        if self.device.type == 'cpu':
            piece = max(1, _CACHE_PIXELS // (n_exposures * ny * nx))
        # Images of like numbers of stars together waste no places.
        for index in torch.argsort(n_stars).split(piece):
            n_places = max(1, int(n_stars[index].max()))
            stars = (v[index, :n_places] for v in (x, y, flux))
            fields = (v[index] for v in (psf, background, read_noise, dither))
            out[index] = self._stack_piece(*stars, *fields, generator)
        return out

    def _stack_piece(self, x, y, flux, psf, background, read_noise, dither, generator):
        ny, nx = self.shape
        n_images, n_exposures = dither.shape[:2]

        def per_exposure(value):
            return value.repeat_interleave(n_exposures, 0)

        shifts = dither.flatten(0, 1)
        shift_x, shift_y = shifts[:, 0, None, None], shifts[:, 1, None, None]
        # Exposures carry one more pixel on each side.
        along_y, along_x = star_factors(
            per_exposure(psf),
            (x[:, None] + dither[..., :1] + 1).flatten(0, 1),
            (y[:, None] + dither[..., 1:] + 1).flatten(0, 1),
            per_exposure(flux),
            size=(ny + 2, nx + 2),
            radius=self.normalization_radius,
            tolerance=self.tolerance,
        )
        background = per_exposure(background)[:, None, None]
        sky_variance = background
        if bool(read_noise.any()):
            read_noise = per_exposure(read_noise)[:, None, None]
            sky_variance = background + read_noise**2
        else:
            read_noise = 0.0
        # The signal is aligned by its factors, which are small.
        aligned = interpolate_last(along_y, shift_y).transpose(1, 2) @ (
            interpolate_last(along_x, shift_x)
        )
        if self.noise_order == 'before_alignment':
            noisy = add_noise(
                along_y.transpose(1, 2) @ along_x,
                background,
                read_noise=read_noise,
                generator=generator,
            )
            data = align_bilinear(noisy, shifts)
        else:
            data = add_noise(
                aligned, background, read_noise=read_noise, generator=generator
            )
        weight = aligned.add_(sky_variance).reciprocal_()
        stacked = (n_images, n_exposures, ny, nx)
        data = data.mul_(weight).view(stacked).sum(1)
        return data / weight.view(stacked).sum(1)

    def draw_mask(self, data, *, background=None, generator=None):
        """
        Draw bad pixels.

        Parameters
        ----------
        data : tensor ``(B, ny, nx)``
            Coadds; what is too bright is saturated.

        background : tensor ``(B,)``, optional
            Of the coadds. A detector holds twice the sky at least.

        generator : `torch.Generator`, optional
            On the simulator's device.

        Returns
        -------
        mask : tensor ``(B, ny, nx)`` of bool
            `True` for bad pixels.
        """
        if self.bad_pixels is None:
            return torch.zeros_like(data, dtype=torch.bool)
        mask = self.bad_pixels.sample(
            len(data), self.shape, generator=generator, device=self.device
        )
        low, high = self.bad_pixels.saturation
        unit = torch.rand(len(data), 1, 1, generator=generator, device=self.device)
        level = low * (high / low) ** unit
        if background is not None:
            level = level.maximum(2 * background[:, None, None])
        return mask | (data > level)


def _correlated(noise, correlation_x, correlation_y):
    """Give white noise a correlation of neighbours, at the same variance."""
    for axis, rho in ((-1, correlation_x), (-2, correlation_y)):
        # Weights (a, b, a) with b^2 + 2 a^2 = 1 and 2 a b = rho.
        square = (1 - (1 - 2 * rho.clamp(max=0.7) ** 2).clamp(min=0).sqrt()) / 4
        side = square.sqrt()[:, None, None]
        middle = (1 - 2 * square).sqrt()[:, None, None]
        around = torch.roll(noise, 1, axis) + torch.roll(noise, -1, axis)
        noise = middle * noise + side * around
    return noise
