# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated images with their truth, as tensors.
"""

import dataclasses

import torch

__all__ = ['SimulatedImages', 'padded']

# Attributes with an axis of sources.
_OF_SOURCES = ('x', 'y', 'flux', 'is_galaxy', 'galaxy')


@dataclasses.dataclass
class SimulatedImages:
    """
    B simulated images of one size with their truth, as tensors on one device.

    Pixels and fluxes are electrons of one exposure (coadds are means).

    Attributes
    ----------
    data : tensor ``(B, ny, nx)``
        Images, with the background in them.

    background, bkg_error, effective_gain : tensor ``(B,)``
        Stated level of the sky, noise of a pixel of empty sky, and electrons per
        unit of data in the noise of a source.

    correlation : tensor ``(B, 2)``
        Correlation of the noise of neighbouring pixels in x and y.

    psf : tensor ``(B, 8)``
        Stated shape of the effective PSF.

    mask : tensor ``(B, ny, nx)`` of bool
        `True` for bad pixels.

    x, y, flux : tensor ``(B, S)``
        Positions in pixels and fluxes of the sources; flux 0 in unused places. Some
        lie outside of the image or below the flux floor.

    is_galaxy : tensor ``(B, S)`` of bool or None
        Types; `None` for stars alone, as are the two next.

    galaxy : tensor ``(B, S, 6)`` or None
        Shapes in the order of ``GALAXY_SHAPE_NAMES``, radii in pixels, or latent
        vectors of a learned galaxy model; without meaning for stars.

    density, flux_min : tensor ``(B,)`` or None
        Expected number of sources per pixel above the flux floor, and that floor;
        `None` for stamps, as is the next.

    region : tensor ``(B, 4)`` or None
        ``x_low, x_high, y_low, y_high`` of the rectangle that holds all sources.

    population : tensor ``(B,)`` or None
        0 for the prior of the sky, 1 for that of the NPE paper.

    electrons_per_nmgy, read_noise : tensor ``(B,)`` or None
        Calibration and noise of the read-out of one exposure.

    cluster : tensor ``(B, 3)`` or None
        Centre in x and y and radius in pixels of the circle that holds all sources;
        an infinite radius where there is none.

    psf_error, background_error : tensor ``(B,)`` or None
        Stated relative error of the PSF's width, and error of the background in
        units of the noise.

    asymmetry : tensor ``(B, 4)`` or None
        Stated asymmetry of the PSF, ``asymmetry_of_image``.

    noiseless : tensor ``(B, ny, nx)`` or None
        Light of the sources alone, of stamps of galaxies.
    """

    data: torch.Tensor
    background: torch.Tensor
    bkg_error: torch.Tensor
    effective_gain: torch.Tensor
    correlation: torch.Tensor
    psf: torch.Tensor
    mask: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    is_galaxy: torch.Tensor | None = None
    galaxy: torch.Tensor | None = None
    density: torch.Tensor | None = None
    flux_min: torch.Tensor | None = None
    region: torch.Tensor | None = None
    population: torch.Tensor | None = None
    electrons_per_nmgy: torch.Tensor | None = None
    read_noise: torch.Tensor | None = None
    cluster: torch.Tensor | None = None
    psf_error: torch.Tensor | None = None
    background_error: torch.Tensor | None = None
    asymmetry: torch.Tensor | None = None
    noiseless: torch.Tensor | None = None

    def __len__(self):
        return len(self.data)

    @property
    def count(self) -> torch.Tensor:
        """Number of sources of each image, ``(B,)``."""
        return (self.flux > 0).sum(1)

    @property
    def variance(self) -> torch.Tensor:
        """Variance of a pixel of empty sky, ``(B,)``."""
        return self.bkg_error**2

    @property
    def snr(self) -> torch.Tensor:
        """
        Signal-to-noise ratios of the sources of stamps, ``(B,)``.

        They are ``sqrt(sum(s**2 / (s + v)))`` with the noiseless light s of a pixel
        and the variance v of the sky.
        """
        signal = self.noiseless.clamp(min=0)
        ratio = signal**2 / (signal + self.variance[:, None, None])
        return ratio.sum((1, 2)).sqrt()

    def select(self, chosen) -> 'SimulatedImages':
        """
        Return some of the images.

        Parameters
        ----------
        chosen : slice or tensor
            Indices or a boolean mask.
        """
        values = vars(self).items()
        return SimulatedImages(
            **{name: v if v is None else v[chosen] for name, v in values}
        )

    @classmethod
    def concatenate(cls, parts) -> 'SimulatedImages':
        """
        Join batches of images of one size.

        Parameters
        ----------
        parts : list of `SimulatedImages`
            Batches with the same attributes.

        Returns
        -------
        images : `SimulatedImages`
            One batch, places for sources padded to the largest number.
        """
        most = max(part.x.shape[1] for part in parts)
        values = {}
        for field in dataclasses.fields(cls):
            tensors = [getattr(part, field.name) for part in parts]
            if tensors[0] is None:
                continue
            if field.name in _OF_SOURCES:
                tensors = [padded(value, most) for value in tensors]
            values[field.name] = torch.cat(tensors)
        return cls(**values)


def padded(value, n_places):
    """Tensor ``(B, S, ...)`` with zeros up to a number of places."""
    out = value.new_zeros(len(value), n_places, *value.shape[2:])
    out[:, : value.shape[1]] = value
    return out
