# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Places where a catalogue and its image differ, in plain words.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

__all__ = ['CheckFinding', 'Notes']


@dataclass(frozen=True)
class CheckFinding:
    """
    One test of a catalogue against its image.

    Attributes
    ----------
    kind : str
        What was tested: ``'noise'``, ``'photon noise'``, ``'background'``,
        ``'psf'``, ``'psf shape'``, ``'cells'``, ``'draws'``, or of a place
        ``'missing source'``, ``'extended source'``, ``'surplus light'``, ``'source
        shape'``.

    text : str
        What it means, in plain words.

    alarm : bool
        Whether it is a fault: more than noise makes, and more than matters.

    x, y : float
        The place in pixels; NaN if it is not about one place.

    value, error : float
        What was measured: relative error of the noise or of the sources' variance,
        offset of the sky in units of its noise, relative error of the PSF's
        width, share of regions, flux of a place, relative excess of a source's width.

    sigmas, p_value : float
        Its significance; the p-value allows for the tests of its kind, not for the
        other kinds.
    """

    kind: str
    text: str
    alarm: bool
    x: float
    y: float
    value: float
    error: float
    sigmas: float
    p_value: float


class Notes:
    """
    Turns places into words, with what lies near them.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image.

    sources : `~bliss_astro.rendering._scene.Sources`
        The catalogue.

    stars : `~bliss_astro.checks._stars.SourceStatistics`
        Says which of them are bright enough to matter.

    fwhm : float
        Of the PSF in pixels.
    """

    def __init__(self, exposure, sources, stars, fwhm):
        self.shape, self.fwhm, self.unit = exposure.shape, fwhm, exposure.unit
        self.sources = sources.select(stars.index)
        self.snr = stars.snr
        self.masked = None
        if exposure.mask.any():
            self.masked = binary_dilation(exposure.mask, iterations=int(2 * fwhm))

    def tell(self, place):
        """
        Say what a place is.

        Parameters
        ----------
        place : `~bliss_astro.checks._places.Place`
            The place.

        Returns
        -------
        finding : `CheckFinding`
            An alarm.
        """
        apart = np.hypot(self.sources.x - place.x, self.sources.y - place.y)
        near = apart < 2.0 * self.fwhm
        where = f'({place.x:.0f}, {place.y:.0f})'
        words = f'{place.sigmas:.1f} sigma'
        flux = f'flux about {abs(place.value):.3g}'
        if self.unit is not None:
            flux = f'{flux} {self.unit}'
        if place.kind in ('broad', 'narrow'):
            kind = 'source shape'
            side = 'broader' if place.kind == 'broad' else 'narrower'
            what = 'a galaxy or a blend' if place.kind == 'broad' else 'a blemish'
            text = (
                f'the source at {where} is {100 * abs(place.value):.0f} % {side} '
                f'than a star ({words}): {what}?'
            )
        elif place.kind == 'misfit' or (near.any() and place.kind != 'surplus'):
            n = max(int(near.sum()), 1)
            kind = 'source shape'
            what = 'the source' if n == 1 else f'the {n} sources'
            text = (
                f'{what} at {where} of the catalogue {"is" if n == 1 else "are"} not '
                f'what the image has there ({words}): a galaxy or a blend?'
            )
        elif place.kind == 'surplus':
            kind = 'surplus light'
            text = f'the catalogue has light at {where} that the image lacks ({words})'
        else:
            kind = f'{place.kind} source'
            what = 'a point source' if place.kind == 'missing' else 'an extended source'
            text = f'{what} at {where} that the catalogue lacks ({words}, {flux})'
        return CheckFinding(
            kind,
            text + self._circumstances(place),
            True,
            place.x,
            place.y,
            place.value,
            np.nan,
            place.sigmas,
            place.p_value,
        )

    def _circumstances(self, place):
        ny, nx = self.shape
        row = int(np.clip(round(place.y), 0, ny - 1))
        column = int(np.clip(round(place.x), 0, nx - 1))
        if self.masked is not None and self.masked[row, column]:
            return ', next to masked pixels'
        edge = min(place.x + 0.5, place.y + 0.5, nx - 0.5 - place.x, ny - 0.5 - place.y)
        if edge < 2.5 * self.fwhm:
            return ', at the border: light of a source beyond it?'
        return ''
