# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Domain checks: whether an image is like those that an encoder was trained on.

PSF, noise, density and stated errors are compared with the domain on the card, pixels
with their stated distribution, and the share of tiles that have a source.
"""

import dataclasses
import math

import numpy as np
from scipy.ndimage import uniform_filter

from bliss_astro._messages import two_digits
from bliss_astro.encoders import Domain
from bliss_astro.exposures._psf import central_psf
from bliss_astro.flags import CatalogFlag
from bliss_astro.units import FWHM_PER_SIGMA

__all__ = [
    'PIXEL_LIMITS',
    'DomainFinding',
    'brightest_flux',
    'check_domain',
    'check_fullness',
    'domain_findings',
    'pixel_statistics',
]

# Factor beyond the stated ranges that is still near enough.
_TOLERANCE = 1.05
# Smallest correlation of neighbouring pixels, as of interpolated and high-passed
# images: at -0.15, recall and false rows of simulated stars are those of white noise.
_CORRELATION_MIN = -0.15
# How far above the range of the PSF's features, which are logarithms, wings may be;
# and how much larger an ellipticity may be.
_WING_TOLERANCE, _ELLIPTICITY_TOLERANCE = 0.15, 0.02

# Limits of `pixel_statistics`: simulations of every density that the bundled
# encoders know stay inside, and a noise that is wrong by a quarter does not.
# A level has no upper limit, because faint sources raise it.
PIXEL_LIMITS = {
    'pixel_scatter': (0.85, 1.2),
    'pixel_level': (-0.5, np.inf),
    'pixel_holes': (0.0, 1e-3),
}
_PIXEL_TITLES = {
    'pixel_scatter': 'scatter of the pixels over the stated noise',
    'pixel_level': 'median of the pixels, in units of the noise',
    'pixel_holes': 'share of pixels 7 sigma below the background',
}
# Side in pixels of the cells of those statistics, and the smallest number of good
# pixels in one.
_CELL, _CELL_PIXELS = 256, 500
# Quantile in per cent and its distance from the median of a normal distribution in
# sigma (sources spare the darker half), and the depth of a hole in sigma.
_LOW, _LOW_SIGMA, _HOLE = 2.275, 2.0, -7.0
# Median in units of the noise above which sources widen the distribution too.
_EMPTY_LEVEL = 0.4

# Pixels above so many sigma belong to a source, as in SExtractor by default,
# and a flux of that signal-to-noise ratio may be there whatever the pixels look like.
_SEGMENT, _FAINT_SNR = 1.5, 10.0

# Side in tiles of the area over which the share of tiles with a source is taken, and
# the smallest number of tiles of an image whose share is judged.
_AREA, _AREA_TILES = 16, 64
# Share of tiles beyond which an area is full, for encoders trained on less than that,
# and the margin above what those are expected to see that were trained on more.
_FULL, _FULL_MARGIN = 0.4, 1.05


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
        The quantity, its value in the image, and its range in training.

    flag : `~bliss_astro.flags.CatalogFlag` or None
        Flag of the rows concerned.

    outside : bool array
        Tiles concerned (or one for all).
    """

    name: str
    title: str
    value: str
    allowed: str
    flag: CatalogFlag | None
    outside: np.ndarray

    def message(self, encoder):
        """Return the finding as a sentence without its full stop."""
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


def _width(area):
    # FWHM of the Gaussian of that effective area, 4 pi sigma^2.
    return f'FWHM about {FWHM_PER_SIGMA * math.sqrt(area / (4 * math.pi)):.2g} px'


_PSF, _NOISE = CatalogFlag.PSF_OUT_OF_DOMAIN, CatalogFlag.NOISE_OUT_OF_DOMAIN
# Name, title, flag and text of a value.
_RANGES = (
    ('psf_area', 'PSF', _PSF, _width),
    (
        'density',
        'density of sources',
        CatalogFlag.DENSITY_OUT_OF_DOMAIN,
        '{:.2g} per pixel'.format,
    ),
    ('noise', 'noise of the sky', _NOISE, '{:.3g} electrons'.format),
    (
        'floor_snr',
        'flux_min stands for a signal-to-noise ratio',
        None,
        '{:.3g}'.format,
    ),
)
_ERRORS = (
    ('psf_error', 'relative error of the PSF', _PSF, '{:.2g}'.format),
    (
        'background_error',
        'error of the background in units of the noise',
        _NOISE,
        '{:.2g}'.format,
    ),
)


def domain_findings(domain, facts):
    """List of `DomainFinding`, empty where all facts of `check_domain` are within."""
    findings = []
    for name, *what in _RANGES:
        pair = (0.0, domain.density[1]) if name == 'density' else getattr(domain, name)
        if pair is not None and facts.get(name) is not None:
            findings += _beyond(name, *what, facts[name], *pair)
    findings += _psf_findings(domain, facts, [f.name for f in findings])
    for name, *what in _ERRORS:
        if facts.get(name) is not None:
            findings += _beyond(name, *what, facts[name], None, getattr(domain, name))
    for name, (low, high) in PIXEL_LIMITS.items():
        value, what = facts.get(name, np.nan), (_PIXEL_TITLES[name], _NOISE)
        limits = {'allowed': f'{low:g} to {high:g}', 'tolerance': 1.0}
        findings += _beyond(name, *what, '{:.2g}'.format, value, low, high, **limits)
    correlation = facts['correlation']
    if max(correlation) > domain.correlation or min(correlation) < _CORRELATION_MIN:
        finding = DomainFinding(
            'correlation',
            'noise correlation',
            ', '.join(map('{:.2f}'.format, correlation)),
            f'{_CORRELATION_MIN} to {domain.correlation}',
            _NOISE,
            np.ones((1, 1), dtype=bool),
        )
        findings.append(finding)
    return findings


def _beyond(
    name, title, flag, show, value, low, high, *, allowed=None, tolerance=_TOLERANCE
):
    """The finding of one quantity, if there is one (list)."""
    value = np.atleast_2d(value)
    outside = value > high * tolerance
    if low is not None:
        outside |= value < low / tolerance
    if not outside.any():
        return []
    if allowed is None:
        allowed = (
            f'up to {show(high)}' if low is None else f'{show(low)} to {show(high)}'
        )
    worst = show(value[outside].flat[0])
    return [DomainFinding(name, title, worst, allowed, flag, outside)]


def _psf_findings(domain, facts, found):
    """Where wings or ellipticity of the PSF are outside."""
    features = facts.get('psf_features')
    if features is None or domain.psf_features is None:
        return []
    findings = []
    high = np.array(domain.psf_features[1])[:, None, None]
    excess = (features - high)[2:6].max(0)
    # A broad PSF is bright far out too.
    if 'psf_area' not in found and (excess > _WING_TOLERANCE).any():
        findings.append(
            DomainFinding(
                'psf_wings',
                'wings of the PSF',
                f'up to {two_digits(math.exp(excess.max()))} times too bright',
                'no brighter than these',
                _PSF,
                excess > _WING_TOLERANCE,
            )
        )
    # `describe_shape` gives ten times e1 and e2.
    size = np.hypot(*features[6:8]) / 10
    most = max(np.abs(np.array(domain.psf_features)[:, 6:8]).max() / 10, 0.01)
    outside = size > most * 2**0.5 + _ELLIPTICITY_TOLERANCE
    if outside.any():
        findings.append(
            DomainFinding(
                'psf_ellipticity',
                'ellipticity of the PSF',
                f'{size.max():.2f}',
                f'up to {most:.2f}',
                _PSF,
                outside,
            )
        )
    return findings


def check_domain(encoder, facts):
    """
    Compare an image with the domain of an encoder.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        Encoder, whose card states the domain.

    facts : dict
        ``psf_area``, ``noise``, ``density`` (arrays by tile or scalars),
        ``correlation`` (pair of float) and ``floor_snr`` (array, or `None`
        for the usual one); those of `pixel_statistics` may be left out, and so may
        ``psf_features`` ``(8, rows, columns)``, ``psf_error`` and
        ``background_error``.

    Returns
    -------
    flags : int array
        Flags by tile (or one).

    messages : list of str
        Texts of warnings.
    """
    flags, messages = np.zeros((1, 1), dtype=np.int64), []
    domain = Domain.of(encoder)
    for finding in domain_findings(domain, facts) if domain is not None else ():
        messages.append(finding.message(encoder.name))
        if finding.flag is not None:
            flags = flags | np.where(finding.outside, int(finding.flag), 0)
    return flags, messages


# -- pixels ----------------------------------------------------------------------


def pixel_statistics(image, good, *, shape):
    """
    Statistics of the pixels in units of the stated noise, by cells of 256 px.

    Parameters
    ----------
    image : 2D array
        Background-subtracted, in units of the noise.

    good : 2D bool array
        Pixels that count.

    shape : tuple of int
        Rows and columns of the maps to return (tiles).

    Returns
    -------
    facts : dict of str to 2D array
        ``pixel_scatter``, from the pixels darker than the median, over the stated
        noise (at most 1 where there are too many sources for it to mean noise);
        ``pixel_level``, the median over the noise; ``pixel_holes``, the share of
        pixels 7 sigma too dark.  NaN where there are too few pixels.
    """
    ny, nx = image.shape
    n_rows, n_columns = -(-ny // _CELL), -(-nx // _CELL)
    maps = np.full((3, n_rows, n_columns), np.nan)
    for i, rows in enumerate(np.array_split(np.arange(ny), n_rows)):
        for j, columns in enumerate(np.array_split(np.arange(nx), n_columns)):
            cell = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            # Every fourth pixel of a large cell is enough.
            step = 2 if image[cell].size > 20000 else 1
            values = image[cell][::step, ::step][good[cell][::step, ::step]]
            if len(values) >= _CELL_PIXELS:
                low, middle = np.percentile(values, (_LOW, 50))
                scatter = (middle - low) / _LOW_SIGMA
                if middle > _EMPTY_LEVEL:
                    scatter = min(scatter, 1.0)
                maps[:, i, j] = scatter, middle, np.mean(values < _HOLE)
    row = np.minimum(np.arange(shape[0]) * n_rows // shape[0], n_rows - 1)
    column = np.minimum(np.arange(shape[1]) * n_columns // shape[1], n_columns - 1)
    return dict(zip(PIXEL_LIMITS, maps[:, row[:, None], column], strict=True))


def brightest_flux(exposure):
    """
    Estimate an upper limit of the fluxes of an exposure's sources.

    Returns
    -------
    flux : float
        The largest sum of connected pixels above the sky, at least the flux of a
        faint star, in the unit of the image.
    """
    from scipy.ndimage import label, sum_labels

    light = np.where(exposure.mask, 0.0, exposure.data - exposure.background)
    above = light > _SEGMENT * exposure.bkg_error
    labels, n = label(above, structure=np.ones((3, 3)))
    sums = sum_labels(light, labels, np.arange(1, n + 1))
    area = central_psf(exposure).n_eff
    faint = _FAINT_SNR * np.median(exposure.bkg_error) * np.sqrt(area)
    return float(np.max(sums, initial=faint))


# -- tiles -----------------------------------------------------------------------


def check_fullness(encoder, posterior):
    """
    Find where most tiles have a source.

    Stars of any density of the training leave tiles empty; larger galaxies, nebulae,
    and noise that is stronger than stated do not.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        Encoder, whose card states the largest density.

    posterior : `~bliss_astro.posteriors.TilePosterior`
        Posterior of one image.

    Returns
    -------
    flags : int array ``(rows, columns)``
        ``DENSITY_OUT_OF_DOMAIN`` where it is full.

    message : str or None
        Text of a warning.

    mostly : bool
        Whether that is most of the image.
    """
    count = posterior.decided()[0].count[0].cpu().numpy()
    # One star fills all of an image of a few tiles.
    if count.size < _AREA_TILES:
        return np.zeros(count.shape, dtype=int), None, False
    share = uniform_filter((count > 0).astype(float), _AREA, mode='nearest')
    domain = Domain.of(encoder)
    limit = _FULL
    if domain is not None:
        expected = domain.density[1] * posterior.grid.size**2
        limit = max(limit, _FULL_MARGIN * -math.expm1(-expected))
    full = share > limit
    flags = np.where(full, int(CatalogFlag.DENSITY_OUT_OF_DOMAIN), 0)
    if not full.any():
        return flags, None, False
    part = full.mean()
    where = 'all' if part > 0.99 else f'{100 * part:.0f} %' if part > 0.01 else 'a part'
    message = (
        f'sources were found nearly everywhere in {where} of the image (in '
        f'{100 * share.max():.0f} % of the tiles of {posterior.grid.size} px): stars '
        f'too dense for the encoder {encoder.name!r}, a large galaxy or nebula, or '
        'noise that is stronger than bkg_error; rows concerned are flagged '
        'density_out_of_domain. Give background and bkg_error, or for a field of stars '
        "encoder='stars-crowded'"
    )
    # Nothing is refined from half of the image on.
    mostly = part > 0.5
    if mostly:
        message += '. Shapes and sources on borders of tiles were not refined'
    return flags, message, mostly
