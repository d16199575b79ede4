# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Coadds: means of aligned exposures, with all that a measurement needs.
"""

import numpy as np
from astropy.io import registry

from bliss_astro._arguments import counted, require
from bliss_astro.exposures import Exposure
from bliss_astro.exposures._noise import neighbours
from bliss_astro.exposures._validate import check_shape
from bliss_astro.psf._fit import check_psf_pixels

from . import _io
from ._noise import check_kernel, kernel_of_pair
from ._psf import draw_psf_at


class Coadd(Exposure):
    """
    A mean of aligned exposures, with a record of how it was made.

    Everything that reads an `~bliss_astro.exposures.Exposure` reads a coadd.
    `coadd_exposures` makes one from exposures, `read` from a file.

    Parameters
    ----------
    data : 2D array_like or `~astropy.units.Quantity`
        The image. Pixels that are not finite, and those of no exposure, are
        added to ``mask``.

    noise_kernel : 2D array_like, optional
        Correlation of the noise of two pixels by their distance (dy, dx),
        shape (2 L + 1, 2 L + 1) with L at least 1, and 1 in the middle. By default the
        noise of all pixels is independent.

    n_exposures : int or 2D array_like of int, optional
        Number of exposures that make up each pixel.

    psf_image : 2D array_like, optional
        Image of the effective PSF at the centre, with odd sides, centred on
        its middle pixel. Its sum is the flux within it, of a star of unit flux.
        By default it is drawn from ``psf``.

    **kwargs
        Other arguments of `~bliss_astro.exposures.Exposure`; its
        ``noise_correlation`` follows from the kernel.

    Attributes
    ----------
    noise_correlation : tuple of float
        Correlation of pixels next to each other in x and in y, from the kernel.

    Raises
    ------
    TypeError, ValueError
        As in an exposure, and if kernel, number of exposures or image
        of the PSF have an impossible shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from bliss_astro.coadds import Coadd
    >>> coadd = Coadd(
    ...     np.zeros((32, 48)),
    ...     bkg_error=0.1,
    ...     effective_gain=500.0,
    ...     n_exposures=3,
    ...     noise_kernel=np.outer([0.25, 1, 0.25], [0.25, 1, 0.25]),
    ... )
    >>> coadd
    <Coadd 32 x 48 px, bkg_error 0.1, 3 exposures>
    >>> coadd.noise_correlation
    (0.25, 0.25)
    """

    # The correlation follows from the kernel, and is no argument of its own.
    _arguments = (
        *(name for name in Exposure._arguments if name != 'noise_correlation'),
        'noise_kernel',
        'n_exposures',
        'psf_image',
    )

    def __init__(
        self, data, *, noise_kernel=None, n_exposures=None, psf_image=None, **kwargs
    ):
        if noise_kernel is None:
            noise_kernel = kernel_of_pair(0.0, 0.0)
        kernel = check_kernel(noise_kernel)
        counts = _check_counts(n_exposures, np.shape(data))
        if counts is not None and not counts.all():
            mask, empty = kwargs.get('mask'), counts == 0
            mask = empty if mask is None else np.asarray(mask, dtype=bool) | empty
            kwargs['mask'] = mask
        super().__init__(data, noise_correlation=neighbours(kernel), **kwargs)
        self.noise_kernel = kernel
        self.n_exposures = counts
        self._psf_image = _check_psf_image(psf_image)

    read = classmethod(_io.read)
    write = _io.write
    from_nddata = from_ccddata = classmethod(_io.from_nddata)
    to_ccddata = _io.to_ccddata

    @property
    def psf_image(self):
        """Image of the effective PSF at the centre, or `None` without a PSF."""
        if self._psf_image is not None or self.psf is None:
            return self._psf_image
        ny, nx = self.shape
        return draw_psf_at(self, (nx - 1) / 2, (ny - 1) / 2)

    def replace(self, **changes):
        """
        Return a copy with some arguments changed.

        Parameters
        ----------
        **changes
            ``data`` or any argument of the constructor, see
            `bliss_astro.exposures.Exposure.replace`. With a new ``psf`` its image
            is drawn anew.

        Returns
        -------
        coadd : `Coadd`
            The changed copy.

        """
        if 'psf' in changes:
            changes.setdefault('psf_image', None)
        return super().replace(**changes)

    def _state(self):
        # An image of the PSF that was not given is not drawn for this; and lists
        # are not taken for maps, even in a coadd of just their shape.
        names = [name for name in self._arguments if name != 'psf_image']
        state = {name: getattr(self, name) for name in names}
        image = None if self._psf_image is None else self._psf_image.tolist()
        parts = {'noise_kernel': self.noise_kernel.tolist(), 'psf_image': image}
        return state | parts | {'psf': self._psf_access}

    def __getitem__(self, item):
        cut = super().__getitem__(item)
        if self._psf_access.varies:
            # That of the cut-out's own centre is rendered when it is needed.
            cut._psf_image = None
        return cut

    def __repr__(self):
        text = super().__repr__()
        if self.n_exposures is None:
            return text
        counts = self.n_exposures[~self.mask]
        low, high = int(counts.min()), int(counts.max())
        least = '' if low == high else f'{low} to '
        return f'{text[:-1]}, {least}{counted(high, "exposure")}>'


# For Exposure.read, which identifies the files by their content.
registry.register_reader('bliss_astro.coadd', Exposure, Coadd.read)


def _check_counts(counts, shape):
    """Check the numbers of exposures, and spread one number out."""
    if counts is None:
        return None
    array, shape = np.asarray(counts), tuple(shape)
    sound, allowed = array.dtype.kind in 'iu', 'be an integer or a map of them'
    require(sound, 'n_exposures', allowed, array.dtype, TypeError)
    if array.ndim:
        check_shape('n_exposures', array, shape, 'be a number or have')
    low, high = array.min(), array.max()
    allowed = 'not be negative, and be positive somewhere'
    require(low >= 0 and high >= 1, 'n_exposures', allowed, f'{low} to {high}')
    return np.broadcast_to(array.astype(np.int32), shape)


def _check_psf_image(image):
    """Check an image of the PSF."""
    if image is None:
        return None
    image = np.array(image, dtype=float)
    sound = image.ndim == 2 and np.all(np.array(image.shape) % 2)
    require(sound, 'psf_image', 'have two odd sides', f'shape {image.shape}')
    check_psf_pixels(image, 'psf_image')
    return image
