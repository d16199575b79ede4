# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated fields of stars and galaxies with their truth.
"""

import dataclasses

import torch

__all__ = ['SceneBatch']


@dataclasses.dataclass
class SceneBatch:
    """
    B simulated images with their truth.

    Attributes
    ----------
    data : tensor ``(B, ny, nx)``
        Electrons of one exposure, with the background in them.

    background, bkg_error, effective_gain : tensor ``(B,)``
        What is said of the sky and its noise; a nuisance may have been added.

    correlation : tensor ``(B, 2)``
        Correlation of the noise of neighbouring pixels.

    psf : tensor ``(B, 8)``
        Effective PSF.

    electrons_per_nmgy : tensor ``(B,)``
        Calibration.

    density, flux_min : tensor ``(B,)``
        Expected number of sources per pixel above the flux floor, in electrons.

    mask : tensor ``(B, ny, nx)`` of bool
        Bad pixels.

    x, y, flux : tensor ``(B, S)``
        Pixels and electrons; 0 in unused places.  Some lie outside of the
        image or below the floor.

    is_galaxy : tensor ``(B, S)`` of bool
        Types.

    galaxy : tensor ``(B, S, 6)``
        Shapes, see ``GALAXY_SHAPE_NAMES``.

    population : tensor ``(B,)``
        0 for the prior of the sky, 1 for that of the NPE paper.

    region : tuple of float
        Where sources lie.

    cluster : tensor ``(B, 3)`` or None
        Centre in x and y and radius of the circle that holds all sources;
        an infinite radius where there is none.

    psf_error, background_error : tensor ``(B,)`` or None
        Stated errors, see `~bliss_astro.encoders.EncoderInputs`.

    asymmetry : tensor ``(B, 4)`` or None
        Stated asymmetry of the PSF.
    """

    data: torch.Tensor
    background: torch.Tensor
    bkg_error: torch.Tensor
    effective_gain: torch.Tensor
    correlation: torch.Tensor
    psf: torch.Tensor
    electrons_per_nmgy: torch.Tensor
    density: torch.Tensor
    flux_min: torch.Tensor
    mask: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    flux: torch.Tensor
    is_galaxy: torch.Tensor
    galaxy: torch.Tensor
    population: torch.Tensor
    region: tuple[float, float, float, float]
    cluster: torch.Tensor | None = None
    psf_error: torch.Tensor | None = None
    background_error: torch.Tensor | None = None
    asymmetry: torch.Tensor | None = None

    def __len__(self):
        return len(self.data)

    @classmethod
    def concatenate(cls, parts):
        """Join batches of images of one size."""
        most = max(part.x.shape[1] for part in parts)
        values = {}
        for field in dataclasses.fields(cls):
            own = [getattr(part, field.name) for part in parts]
            if field.name == 'region' or own[0] is None:
                values[field.name] = own[0]
                continue
            if field.name in ('x', 'y', 'flux', 'is_galaxy', 'galaxy'):
                own = [padded(value, most) for value in own]
            values[field.name] = torch.cat(own)
        return cls(**values)


def padded(value, n_places):
    out = value.new_zeros(len(value), n_places, *value.shape[2:])
    out[:, : value.shape[1]] = value
    return out
