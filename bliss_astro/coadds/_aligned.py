# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
An exposure on a grid that is not its own.
"""

import numpy as np

from ..exposures import Exposure
from ._noise_kernel import check_kernel, kernel_of_pair

__all__ = ['AlignedExposure']


class AlignedExposure(Exposure):
    """
    An exposure that was resampled to another grid.

    What `align_exposures` returns. Its sky has been subtracted
    (``background`` is 0), while the noise of the sky is in ``bkg_error``. Pixels
    hold the flux per pixel of the new grid, so that a source has the flux that
    it had; in units of surface brightness (MJy / sr) they hold that, unchanged.

    Parameters
    ----------
    data : 2D array_like
        The image.

    noise_kernel : 2D array_like, optional
        Mean correlation of the noise of two pixels by their distance,
        ``noise_kernel[n + dy, n + dx]`` for a side of ``2 n + 1``: 1 at the
        centre, the same at opposite lags. By default it follows from
        ``noise_correlation``.

    coverage : 2D bool array_like, optional
        `True` where the exposure has data, good or bad; by default everywhere.

    noise_correlation : pair of float, optional
        Correlation of neighbours in x and in y, where there is no
        ``noise_kernel``.

    **kwargs
        See `~bliss_astro.exposures.Exposure`.

    Attributes
    ----------
    noise_kernel : float `~numpy.ndarray`, shape (5, 5)
        See the parameters.

    coverage : bool `~numpy.ndarray`, shape (ny, nx)
        See the parameters.

    See Also
    --------
    align_exposures : Makes them.

    Notes
    -----
    ``bkg_error`` is the noise of single pixels, which resampling reduces. The
    noise of a sum over many pixels is ``bkg_error * sqrt(noise_kernel.sum())``
    times the square root of their number, which it does not.
    """

    _arguments = (*Exposure._arguments, 'noise_kernel', 'coverage')

    def __init__(
        self,
        data,
        *,
        noise_kernel=None,
        coverage=None,
        noise_correlation=None,
        **kwargs,
    ):
        if noise_kernel is not None:
            noise_kernel = check_kernel('noise_kernel', noise_kernel)
            own = _neighbours(noise_kernel)
            if noise_correlation is None:
                noise_correlation = own
            elif not np.allclose(noise_correlation, own, rtol=0, atol=1e-6):
                msg = (
                    f'noise_correlation={tuple(noise_correlation)} does not fit '
                    f'noise_kernel, which has {own}; give one of both.'
                )
                raise ValueError(msg)
        if noise_correlation is None:
            noise_correlation = (0.0, 0.0)
        super().__init__(data, noise_correlation=noise_correlation, **kwargs)
        if noise_kernel is None:
            noise_kernel = kernel_of_pair(*self.noise_correlation)
        self.noise_kernel = noise_kernel
        covered = np.ones(self.shape, dtype=bool)
        if coverage is not None:
            covered = np.asarray(coverage, dtype=bool)
        if covered.shape != self.shape:
            msg = (
                f'coverage must have the shape of data, {self.shape}; got '
                f'{covered.shape}.'
            )
            raise ValueError(msg)
        self.coverage = covered

    def _state(self):
        """
        Return the constructor's arguments after data, as they are now.
        """
        state = super()._state()
        # It follows from the kernel; and that is not given as an array, lest a
        # cut-out of a small image takes it for a map.
        state['noise_correlation'] = None
        state['noise_kernel'] = self.noise_kernel.tolist()
        return state


def _neighbours(kernel):
    """
    Return the correlation of neighbours in x and in y.
    """
    n = len(kernel) // 2
    if n == 0:
        return 0.0, 0.0
    return float(kernel[n, n + 1]), float(kernel[n + 1, n])
