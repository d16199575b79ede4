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

from ._noise import check_kernel, kernel_of_pair


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

    @classmethod
    def read(cls, path, *, hdu=None, **known):
        """
        Read a coadd from a FITS file, one of `write` or of another maker.

        Parameters
        ----------
        path : str, `~os.PathLike` or `~astropy.io.fits.HDUList`
            The file, plain or compressed.

        hdu : int or str, optional
            The image, in files of other makers; by default the first HDU
            with a two-dimensional image.

        **known
            Arguments of `Coadd` that such a file does not hold, with or
            without units as its image has them (the unit of ``BUNIT``).

        Returns
        -------
        coadd : `Coadd`
            The coadd. For files of other makers, noise and correlation that
            are not among ``known`` are measured in the blank sky, the sky
            that is left on a mesh, and ``meta['estimated']`` states which and how.

        Raises
        ------
        OSError
            If the file is absent, truncated, damaged, or not FITS.

        TypeError
            If ``known`` has something that `Coadd` does not take.

        ValueError
            If there is no image, or the parts of the file do not fit each
            other.

        Warns
        -----
        `~astropy.utils.exceptions.AstropyUserWarning`
            If the noise had to be estimated.

        See Also
        --------
        bliss_astro.exposures.measure_noise : How that is done.
        """
        from ._io import read_coadd

        return read_coadd(cls, path, hdu=hdu, known=known)

    def write(self, path, *, overwrite=False):
        """
        Write the coadd to a FITS file with an extension for each map.

        Parameters
        ----------
        path : str or `~os.PathLike`
            The file; ``.gz`` at the end compresses it.

        overwrite : bool, optional
            Whether an existing file may be replaced.

        Raises
        ------
        OSError
            If the file exists, or cannot be written; it is then as it was.

        Notes
        -----
        The image is in the first HDU, where every program finds it. The
        extensions are ``BKGERR``, ``EFFGAIN``, ``BACKGRND``, ``RDNOISE`` and
        ``SATURATE`` (those that are maps; single numbers stand in the header),
        ``MASK`` (1 bad, 2 saturated), ``NEXP``, ``NOISEKER``, ``PSFIMAGE``,
        ``PSF`` (shapes and images on a grid of places) and ``META``.
        """
        from ._io import write_coadd

        write_coadd(self, path, overwrite=overwrite)

    @classmethod
    def from_nddata(cls, nddata, **kwargs):
        """
        Take the coadd from an NDData or CCDData.

        Parameters
        ----------
        nddata : `~astropy.nddata.NDData` or `~astropy.nddata.CCDData`
            The image, of `to_ccddata` or another one. Its uncertainty is the
            TOTAL error of each pixel.

        **kwargs
            Arguments of `Coadd` that it does not have. ``effective_gain`` is
            needed, unless the NDData came from `to_ccddata`.

        Returns
        -------
        coadd : `Coadd`
            The coadd.

        Raises
        ------
        TypeError, ValueError
            See `bliss_astro.exposures.Exposure.from_nddata`.
        """
        from ._io import read_coadd_nddata

        data, arguments = read_coadd_nddata(nddata, kwargs)
        return cls(data, **arguments)

    from_ccddata = from_nddata

    def to_ccddata(self):
        """
        Turn the coadd into a CCDData.

        Returns
        -------
        ccddata : `~astropy.nddata.CCDData`
            Image, mask, WCS, unit, meta, image of the PSF, the total error as
            uncertainty, and the numbers of exposures as ``flags``. The kernel
            of the noise stands in its meta (``NKy_x``). A gain that is a
            map is kept as one number, ``NOISESKY``: the signal at which the sources'
            noise equals the sky's, ``bkg_error**2 * effective_gain``.
            ``from_ccddata`` returns to the maps, exactly where that number is the
            same in all pixels. A PSF that varies is reduced to its image at the
            centre.
        """
        from ._io import write_coadd_ccddata

        return write_coadd_ccddata(self, super().to_ccddata())

    @property
    def psf_image(self):
        """Image of the effective PSF at the centre, or `None` without a PSF."""
        if self._psf_image is not None or self.psf is None:
            return self._psf_image
        from ._psf import draw_psf_at

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
