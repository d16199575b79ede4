# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Detection of sources: `detect_sources` and its options.
"""

import dataclasses
import functools
import inspect
import os

import numpy as np

from bliss_astro._arguments import (
    check_choice,
    check_integer,
    check_threshold,
    choose_device,
    require,
)
from bliss_astro._threads import check_n_threads
from bliss_astro.encoders import Encoder, available_encoders

from ._batches import detect_each
from ._tiles import on_device


def detect_sources(
    data,
    threshold=0.5,
    *,
    encoder=None,
    bands=None,
    reference=None,
    calibration=None,
    bandpass=None,
    psf=None,
    fwhm=None,
    background=None,
    bkg_error=None,
    weight=None,
    effective_gain=None,
    saturation=None,
    zero_point=None,
    mask=None,
    wcs=None,
    extension=None,
    psf_error=None,
    background_error=None,
    density=None,
    flux_min=None,
    population='sky',
    n_samples=0,
    rng=None,
    device='auto',
    bin=None,  # noqa: A002 (the word for it, in numpy and at telescopes)
    n_threads=None,
    progress_bar='auto',
    check=True,
    keep='marginals',
):
    """
    Detect stars and galaxies in an image, with probabilities and calibrated errors.

    The encoder returns a posterior over whole catalogues of the image;
    the table holds the sources whose probability exceeds ``threshold``,
    and keeps the posterior as ``catalog.posterior``.  What is not given is
    estimated from the image, and ``catalog.meta['estimated']`` holds values, units
    and sources of all that the image was taken to be.

    Either all of ``data``, ``background`` and ``bkg_error`` have units, or
    none has.  Nothing that is passed in is changed.

    Parameters
    ----------
    data : `~bliss_astro.exposures.Exposure`, `~astropy.nddata.NDData`, \
            `~astropy.units.Quantity`, 2D array_like, path or HDU
        The image.  Integers are cast to floating point; masks of masked
        arrays are kept.  An uncertainty of an NDData is the total error, as in
        photutils; what an Exposure or NDData holds may not be given again by
        keyword.  A `~astropy.nddata.Cutout2D`, an HDU, a list of HDUs, or a file as for
        `Exposure.read <bliss_astro.exposures.ExposureRead>`: ``'file.fits[SCI]'``.

        Several bands are an `~bliss_astro.exposures.ExposureSet`, a dict of such images
        by name of the band (`None` for a missing one), or a cube ``(F, ny, nx)``, also
        of a file, with ``bands``. Their order does not matter. Keywords from
        ``bandpass`` to ``background_error`` hold for all of them,
        or are dicts by name of the band (for a cube, arrays of its shape too). Bands on
        another pixel grid than the reference band, by their WCS, are resampled to it.

    threshold : float, optional
        Smallest probability of a source, between 0 and 1.  This is not
        a brightness, as in photutils' function of the same name.

    encoder : `~bliss_astro.encoders.Encoder`, str or path, optional
        An encoder or the name of one; the bundled
        ``'stars-galaxies'`` by default; ``'stars'`` where all sources are points. One
        that was trained on one band takes the reference band alone, with a warning.

    bands : sequence of str or `~bliss_astro.exposures.Band`, optional
        Bands of a cube, in order: ``'gri'``.

    reference : str, optional
        Name of the reference band, on whose pixels sources are detected, and whose
        fluxes are the column ``flux``; by default that of an
        `~bliss_astro.exposures.ExposureSet`, else r, or the first that there is.

    calibration : dict of str to float, optional
        Factors by which numbers of other bands are multiplied to be in the unit of the
        reference band, where their units do not say so.

    bandpass : `~bliss_astro.exposures.Band` or str, optional
        Wavelength and width of the band, or a name in
        ``bliss_astro.exposures.BANDS``, where neither its name nor the image says so:
        ``{'F606W': Band('F606W', 590.0, 220.0)}``.

    psf : `~bliss_astro.psf.PSFModel` or other PSF, optional
        As for `~bliss_astro.exposures.Exposure`; by default measured on the
        stars of the image (`~bliss_astro.psf.estimate_psf`).  A stated one is
        held against them (`~bliss_astro.psf.compare_psf`).

    fwhm : float or Quantity, optional
        Full width at half maximum of the PSF, in pixels or as an angle, in place of
        ``psf``.

    background : float, 2D array_like, path or Quantity, optional
        Sky that is still in ``data``: 0 if it has been subtracted.
        By default measured on a mesh.

    bkg_error : float, 2D array_like, path or Quantity, optional
        Standard deviation of a pixel of empty sky: a number or an rms map.  By
        default one number, the scatter of pixels without sources.

    weight : 2D array_like, path or Quantity, optional
        Inverse variance of the sky, in place of ``bkg_error``; 0 in bad
        pixels.  It is scaled to the noise of empty sky, unless it states that to 25 %.

    effective_gain : float, 2D array_like, path or Quantity, optional
        Electrons per unit of ``data``.  By default 1 for data in electrons, else by
        the header, from the background and its variance if the sky is still there,
        or such that the noise of the sky is 29 electrons.

    saturation : float, 2D array_like, path or Quantity, optional
        Level from which a pixel is saturated; by default that of the header.

    zero_point : float, optional
        AB magnitude of a flux of 1, for data in counts; the catalogue is then in
        nmgy and has magnitudes.

    mask : 2D bool array_like or path, optional
        `True` for bad pixels; any value but 0 in a file.  Pixels that are not finite
        are added, those more than 20 sigma below the background, those that are
        sharper than the PSF (cosmic rays, hot pixels), and, with a warning, areas of
        one exact value or far below the sky.

    wcs : WCS object, optional
        Celestial coordinates; adds ``sky_centroid``.  One that gives no position
        on the sky is left out, with a warning.

    extension : int, str or tuple, optional
        The HDU of a file.

    psf_error : float, optional
        Relative error of the width of the PSF; by default 0.01 for one that is
        given.

    background_error : float, optional
        Error of the background in units of ``bkg_error``; by default 0.05 for one
        that is given, and 0.1 for one that is measured.

    density : float or 2D array_like, optional
        Prior density of sources per pixel above the flux floor, one number
        or a map over the image; by default from a first pass.

    flux_min : float or Quantity, optional
        Flux floor: the smallest flux of the prior.  By default that at
        which an isolated source has a signal-to-noise ratio of 3.4. One above the
        brightest source of the image is refused.

    population : {'sky', 'npe'}, optional
        Prior of stars and galaxies, for an encoder that was trained on both:
        that of the sky, or that of Patel et al. (2025), Table 1.

    n_samples : int, optional
        Add columns with that many posterior draws of each source.

    rng : int, `numpy.random.Generator` or None, optional
        For those draws.

    device : str or `torch.device`, optional
        ``'auto'`` takes a GPU if there is one.

    bin : int or 'auto', optional
        Join so many pixels along each side into one before the image is looked at,
        where the PSF is broader than in the training; ``'auto'`` joins as
        many as it takes. Rows are in the pixels of the image; tiles of
        ``catalog.posterior``, and ``flux_min`` where it is not given, are those of
        the larger ones.

    n_threads : int, optional
        Threads on the CPU, by default as many as torch uses, and on Linux no more
        than processors that nothing else runs on. Rows are the same to rounding;
        torch's own setting is left as it is.

    progress_bar : bool or 'auto', optional
        Show progress from two seconds on; by default in a terminal.

    check : bool, optional
        Render the rows and search the residual for what they do not explain, see
        :ref:`self-check`; ``catalog.meta['check']`` holds the result.

    keep : {'marginals', 'posterior', None}, optional
        Contents of ``catalog.posterior`` beside the exposure: marginals of the rows
        (2 kB each) and numbers by tile; features and inputs of the encoder too (30
        bytes a pixel), as joint draws need them; or numbers by tile alone. The rest is
        computed anew from the exposure when it is needed; files lack that.

    Returns
    -------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        A row a source, brightest first; empty (with all its columns) if
        nothing was found.

    Raises
    ------
    TypeError
        If an argument is of a kind that cannot be used.

    ValueError
        If a value or shape is not allowed; the message names the parameter.

    Warns
    -----
    NoDetectionsWarning
        If nothing was found.

    OutOfDomainWarning
        If the image is unlike those that the encoder was trained on; the
        rows concerned are flagged.

    CatalogCheckWarning
        If the rows do not explain the image.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, detect_sources
    >>> coadd, truth = CoaddSimulator(10).sample(rng=3)
    >>> catalog = detect_sources(coadd, encoder='stars')
    >>> len(catalog) == len(truth)
    True
    >>> catalog.meta['estimated']['density']['source']
    'estimated: first pass'
    """
    options = {name: value for name, value in locals().items() if name != 'data'}
    return detect(data, DetectionOptions(**options))


def detect(data, options):
    """Detect sources with the keywords of `detect_sources` in `DetectionOptions`."""
    (catalog,) = detect_each([(data, options)])
    return catalog


class _Options:
    """Checks of the options, and what follows from them."""

    def __post_init__(self):
        self.threshold = check_threshold(self.threshold)
        self.n_samples = check_integer('n_samples', self.n_samples, error=ValueError)
        check_n_threads(self.n_threads)
        sound = isinstance(self.check, bool | np.bool_)
        require(sound, 'check', 'be True or False', f'{self.check!r:.60}', TypeError)
        check_choice('population', self.population, ('sky', 'npe'))
        check_choice('keep', self.keep, ('marginals', 'posterior', None))
        sound = isinstance(self.encoder, Encoder | str | os.PathLike | None)
        allowed, kind = 'be an Encoder, the name of one or a path', type(self.encoder)
        require(sound, 'encoder', allowed, kind.__name__, TypeError)

    @property
    def image(self):
        """Those that describe the image, `None` what is to be estimated (dict)."""
        return {name: getattr(self, name) for name in IMAGE_OPTIONS}

    def load_encoder(self):
        """The encoder, on the device."""
        encoder, device = self.encoder, choose_device(self.device)
        if encoder is None or encoder in available_encoders():
            return _bundled_encoder(encoder, device)
        if not isinstance(encoder, Encoder):
            encoder = Encoder.from_pretrained(encoder)
        return on_device(encoder, device)


@functools.lru_cache(maxsize=2)
def _bundled_encoder(name, device):
    """A bundled encoder, which is kept: to load it takes as long as a small image."""
    return Encoder.from_pretrained(name).to(device)


# The keywords of `detect_sources`, with its defaults. Those from bandpass to
# background_error describe the image, and are estimated where they are None.
KEYWORDS = list(inspect.signature(detect_sources).parameters.values())[1:]
_NAMES = [keyword.name for keyword in KEYWORDS]
IMAGE_OPTIONS = tuple(_NAMES[_NAMES.index('bandpass') : _NAMES.index('density')])
DetectionOptions = dataclasses.make_dataclass(
    'DetectionOptions',
    [(p.name, object, dataclasses.field(default=p.default)) for p in KEYWORDS],
    bases=(_Options,),
    # Where pickles find it.
    namespace={'__module__': __name__},
    kw_only=True,
    eq=False,
)
