# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The PSF of an image: measured where it is not given, compared where it is.
"""

import dataclasses
import math

from bliss_astro._warnings import OutOfDomainWarning, warn
from bliss_astro.psf import PSFModel, compare_psf
from bliss_astro.psf._estimate import estimate_from
from bliss_astro.psf._star_image import image_of_exposure

__all__ = ['psf_findings', 'psf_of_stars']

# Estimates are of ellipses, which know nothing of coma: no smaller error is stated.
_LEAST_ERROR = 0.01
# The PSF that is taken where nothing in the image shows one: usual seeing on
# usual pixels, with the largest error that a PSF may be stated with.
_USUAL_FWHM, _USUAL_ERROR = 3.0, 0.15


def psf_of_stars(exposure, estimated):
    """
    Measure the PSF of an exposure on its stars.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, without a PSF.

    estimated : dict
        Gets an entry ``'psf'``: how it was measured.

    Returns
    -------
    psf : `~bliss_astro.psf.PSFModel` or `~bliss_astro.psf.PolynomialPSF`
        The PSF, whose ``fit_info`` says how the fit went.

    psf_error : float
        Relative error of its width.

    Warns
    -----
    bliss_astro.OutOfDomainWarning
        If the image shows no PSF, or only one or two sources do.
    """
    try:
        estimate = estimate_from(image_of_exposure(exposure))
    except ValueError:
        estimated['psf'] = (
            f'assumed: a usual PSF of FWHM {_USUAL_FWHM:g} px, as the image has no '
            'compact source to measure it'
        )
        warn(
            'psf was not given and the image has no compact source to measure it; a '
            f'usual PSF of FWHM {_USUAL_FWHM:g} px was taken: give psf or fwhm',
            OutOfDomainWarning,
        )
        return PSFModel.from_fwhm(_USUAL_FWHM), _USUAL_ERROR
    n = estimate.n_stars
    varies = ' (it varies)' if estimate.psf is not estimate.central else ''
    estimated['psf'] = f'fit to {n} star{"s"[: n != 1]} of the image{varies}'
    return estimate.psf, max(estimate.psf_error, _LEAST_ERROR)


def psf_findings(exposure, *, measured, most=math.inf):
    """
    Say what is wrong with the PSF of an exposure.

    Parameters
    ----------
    exposure : `~bliss_astro.exposures.Exposure`
        The image, with a PSF.

    measured : bool
        Whether the PSF was measured on the image itself.

    most : float, optional
        Largest relative error of a PSF that can be made use of.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        The same, or where its stars contradict its stated PSF one whose ``psf_error``
        is as large as the difference, up to ``most``.

    messages : list of str
        Sentences to warn with.

    numbers : dict
        Of a stated PSF: `~bliss_astro.psf.PSFComparison` as a dictionary with the
        ``psf_error`` that was taken, empty where no star could be compared.
    """
    if measured:
        info = getattr(exposure.psf, 'fit_info', None) or {}
        return exposure, list(info.get('findings', ())), {}
    comparison = compare_psf(exposure)
    if not math.isfinite(comparison.ratio):
        return exposure, [], {}
    numbers = dataclasses.asdict(comparison)
    finding = numbers.pop('finding')
    # Only what is said aloud, which the comparison's own error has been set against.
    error = min(abs(math.log(comparison.ratio)), most) if finding else 0.0
    if error > exposure.psf_error:
        exposure = exposure.replace(psf_error=error)
    numbers['psf_error'] = float(exposure.psf_error)
    return exposure, [finding] if finding else [], numbers
