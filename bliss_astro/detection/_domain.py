# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Whether an image lies within the domain of an encoder.
"""

import dataclasses
import math

import numpy as np

from bliss_astro._messages import two_digits
from bliss_astro.encoders import Domain
from bliss_astro.flags import CatalogFlag

from ._pixel_statistics import PIXEL_LIMITS

__all__ = ['DomainFinding', 'check_domain', 'domain_findings']

# How far beyond the stated ranges is still near enough.
_SLACK = 1.05
# The noise may anticorrelate by that much, as of interpolated and high-passed images:
# at -0.15, recall and false rows of simulated stars are those of white noise.
_LEAST_CORRELATION = -0.15
# How far above the range of the PSF's features, which are logarithms, wings may be;
# and how much larger an ellipticity may be.
_WING_SLACK, _ELLIPTICITY_SLACK = 0.15, 0.02


@dataclasses.dataclass(frozen=True, eq=False)
class DomainFinding:
    """
    One way in which an image is unlike those that an encoder was trained on.

    Attributes
    ----------
    name : str
        ``'psf_area'``, ``'psf_wings'``, ``'psf_ellipticity'``, ``'psf_error'``,
        ``'background_error'``, ``'density'``, ``'noise'``, ``'correlation'``,
        ``'floor_snr'``, ``'pixel_scatter'``, ``'pixel_level'`` or
        ``'pixel_holes'``.

    title, value, allowed : str
        What it is, how much of it the image has, and what was trained on.

    flag : `~bliss_astro.flags.CatalogFlag` or None
        What rows are flagged with.

    outside : bool array
        Where it applies, by tile (or one).
    """

    name: str
    title: str
    value: str
    allowed: str
    flag: CatalogFlag | None
    outside: np.ndarray

    def message(self, encoder):
        """
        Say it in a sentence.

        Parameters
        ----------
        encoder : str
            Name of the encoder.

        Returns
        -------
        text : str
            Without a full stop.
        """
        trained = f'the encoder {encoder!r} was trained on ({self.allowed})'
        if self.name == 'floor_snr':
            return (
                f'{self.title} of {self.value}, outside what {trained}; to have '
                'brighter rows alone, leave it out and select by flux'
            )
        verb = 'are' if self.name == 'psf_wings' else 'is'
        text = f'the {self.title} ({self.value}) {verb} outside what {trained}'
        if self.name == 'correlation':
            return text
        if self.name == 'noise':
            text += ': it is bkg_error times effective_gain, give what is wrong of them'
        return f'{text}; rows concerned are flagged {self.flag.name.lower()}'


def domain_findings(domain, facts):
    """
    Find what of an image lies outside an encoder's domain.

    Parameters
    ----------
    domain : `Domain`
        What the encoder was trained on.

    facts : dict
        As for `check_domain`.

    Returns
    -------
    findings : list of `DomainFinding`
        Empty if the encoder covers the image.
    """
    findings = []
    checks = (
        ('psf_area', domain.psf_area, CatalogFlag.PSF_OUT_OF_DOMAIN, 'PSF', _width),
        (
            'density',
            (0.0, domain.density[1]),
            CatalogFlag.DENSITY_OUT_OF_DOMAIN,
            'density of sources',
            lambda v: f'{v:.2g} per pixel',
        ),
        (
            'noise',
            domain.noise,
            CatalogFlag.NOISE_OUT_OF_DOMAIN,
            'noise of the sky',
            lambda v: f'{v:.3g} electrons',
        ),
        (
            'floor_snr',
            domain.floor_snr if facts.get('floor_snr') is not None else None,
            None,
            'flux_min stands for a signal-to-noise ratio',
            lambda v: f'{v:.3g}',
        ),
    )
    for name, pair, flag, title, show in checks:
        if pair is None:
            continue
        low, high = pair
        value = np.atleast_2d(facts[name])
        outside = (value < low / _SLACK) | (value > high * _SLACK)
        if outside.any():
            worst = show(value[outside].flat[0])
            allowed = f'{show(low)} to {show(high)}'
            findings.append(DomainFinding(name, title, worst, allowed, flag, outside))
    findings += _psf_findings(domain, facts, [f.name for f in findings])
    findings += _error_findings(domain, facts)
    findings += _pixel_findings(facts)
    correlation = facts['correlation']
    beyond = max(correlation) > domain.correlation
    if beyond or min(correlation) < _LEAST_CORRELATION:
        finding = DomainFinding(
            'correlation',
            'noise correlation',
            ', '.join(map('{:.2f}'.format, correlation)),
            f'{_LEAST_CORRELATION} to {domain.correlation}',
            CatalogFlag.NOISE_OUT_OF_DOMAIN,
            np.ones((1, 1), dtype=bool),
        )
        findings.append(finding)
    return findings


def _psf_findings(domain, facts, found):
    """Where wings or ellipticity of the PSF are outside."""
    features = facts.get('psf_features')
    if features is None or domain.psf_features is None:
        return []
    findings = []
    high = np.array(domain.psf_features[1])[:, None, None]
    excess = (features - high)[2:6].max(0)
    # A broad PSF is bright far out too.
    if 'psf_area' not in found and (excess > _WING_SLACK).any():
        findings.append(
            DomainFinding(
                'psf_wings',
                'wings of the PSF',
                f'up to {two_digits(math.exp(excess.max()))} times too bright',
                'no brighter than these',
                CatalogFlag.PSF_OUT_OF_DOMAIN,
                excess > _WING_SLACK,
            )
        )
    # `describe_shape` gives ten times e1 and e2.
    size = np.hypot(*features[6:8]) / 10
    most = max(np.abs(np.array(domain.psf_features)[:, 6:8]).max() / 10, 0.01)
    outside = size > most * 2**0.5 + _ELLIPTICITY_SLACK
    if outside.any():
        findings.append(
            DomainFinding(
                'psf_ellipticity',
                'ellipticity of the PSF',
                f'{size.max():.2f}',
                f'up to {most:.2f}',
                CatalogFlag.PSF_OUT_OF_DOMAIN,
                outside,
            )
        )
    return findings


def _error_findings(domain, facts):
    """Whether PSF and background are less certain than in training."""
    findings = []
    for name, title, flag in (
        ('psf_error', 'relative error of the PSF', CatalogFlag.PSF_OUT_OF_DOMAIN),
        (
            'background_error',
            'error of the background in units of the noise',
            CatalogFlag.NOISE_OUT_OF_DOMAIN,
        ),
    ):
        value, most = facts.get(name), getattr(domain, name)
        if value is not None and value > _SLACK * most:
            findings.append(
                DomainFinding(
                    name,
                    title,
                    f'{value:.2g}',
                    f'up to {most:.2g}',
                    flag,
                    np.ones((1, 1), dtype=bool),
                )
            )
    return findings


_PIXEL_TITLES = {
    'pixel_scatter': 'scatter of the pixels over the stated noise',
    'pixel_level': 'median of the pixels, in units of the noise',
    'pixel_holes': 'share of pixels 7 sigma below the background',
}


def _pixel_findings(facts):
    """Where pixels are not distributed as background and noise say."""
    findings = []
    for name, (low, high) in PIXEL_LIMITS.items():
        value = np.atleast_2d(facts.get(name, np.nan))
        with np.errstate(invalid='ignore'):
            outside = (value < low) | (value > high)
        if not outside.any():
            continue
        finding = DomainFinding(
            name,
            _PIXEL_TITLES[name],
            f'{value[outside].flat[0]:.2g}',
            f'{low:g} to {high:g}',
            CatalogFlag.NOISE_OUT_OF_DOMAIN,
            outside,
        )
        findings.append(finding)
    return findings


def check_domain(encoder, facts):
    """
    What of an image lies outside of an encoder's domain.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        Its card states the domain.

    facts : dict
        ``psf_area``, ``noise``, ``density`` (arrays by tile or scalars),
        ``correlation`` (pair of float) and ``floor_snr`` (array, or `None`
        for the usual one); what
        `~bliss_astro.detection._pixel_statistics.pixel_statistics` finds may
        be left out, and so may ``psf_features`` ``(8, rows, columns)``, ``psf_error``
        and ``background_error``.

    Returns
    -------
    flags : int array
        Flags by tile (or one).

    messages : list of str
        What is to be warned of.
    """
    flags, messages = np.zeros((1, 1), dtype=np.int64), []
    domain = Domain.of(encoder)
    if domain is None:
        return flags, messages
    for finding in domain_findings(domain, facts):
        messages.append(finding.message(encoder.name))
        if finding.flag is not None:
            flags = flags | np.where(finding.outside, int(finding.flag), 0)
    return flags, messages


def _width(area):
    # FWHM of the Gaussian of that effective area, 4 pi sigma^2.
    return f'FWHM about {2.355 * math.sqrt(area / (4 * math.pi)):.2g} px'
