# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Domain checks: whether an image is like those that an encoder was trained on.

PSF, noise, density and stated errors are compared with the domain on the card, pixels
with their stated distribution, and the share of tiles that have a source.
"""

import dataclasses
import math

import numpy as np
import scipy

from bliss_astro._arguments import two_digits
from bliss_astro._filters import spans
from bliss_astro.encoders import Domain
from bliss_astro.exposures import BANDS
from bliss_astro.flags import CatalogFlag
from bliss_astro.units import FWHM_PER_SIGMA

# Factor beyond the stated ranges that is still near enough.
_TOLERANCE = 1.05
# Smallest correlation of neighbouring pixels, as of interpolated and high-passed
# images: at -0.15, recall and false rows of simulated stars are those of white noise.
_CORRELATION_MIN = -0.15
# How far above the range of the PSF's features, which are logarithms, wings may be;
# and how much larger an ellipticity may be.
_WING_TOLERANCE, _ELLIPTICITY_TOLERANCE = 0.15, 0.02

# Factors beyond the wavelengths and widths of known bands that are near enough.
_BAND_TOLERANCES = {'wavelength': 1.05, 'width': 2.0}

# Limits of `pixel_statistics`: simulations of every density that the bundled
# encoders know stay inside, and a noise that is wrong by a quarter does not.
# A level has no upper limit, because faint sources raise it.
PIXEL_LIMITS = {
    'pixel_scatter': (0.85, 1.2),
    'pixel_level': (-0.5, np.inf),
    'pixel_holes': (0.0, 1e-3),
}
# Side in pixels of the cells of those statistics, and the smallest number of good
# pixels in one.
_CELL, _CELL_PIXELS = 256, 500
# Quantile and its distance from the median of a normal distribution in
# sigma (sources spare the darker half), and the depth of a hole in sigma.
_LOW, _LOW_SIGMA, _HOLE = 0.02275, 2.0, -7.0
# Median in units of the noise above which sources widen the distribution too.
_EMPTY_LEVEL = 0.4

# Side in tiles of the area over which the share of tiles with a source is taken, and
# the smallest number of tiles of an image whose share is judged.
_AREA, _AREA_TILES = 16, 64
# Share of tiles beyond which an area is full, for encoders trained on less than that,
# and the margin above what those are expected to see that were trained on more.
_FULL, _FULL_MARGIN = 0.4, 1.05


# Limits where the card of an encoder states none.
_UNSTATED = Domain(
    psf_area=(0.0, math.inf),
    density=(0.0, 0.02),
    noise=(0.0, math.inf),
    correlation=1.0,
    psf_error=math.inf,
)


def domain_of(encoder):
    """Domain on the card of an encoder, or the limits where it states none."""
    return Domain.of(encoder) or _UNSTATED


def _width(area):
    # FWHM of the Gaussian of that effective area, 4 pi sigma^2.
    return f'FWHM about {FWHM_PER_SIGMA * math.sqrt(area / (4 * math.pi)):.2g} px'


_TWO = '{:.2g}'.format
_PSF, _NOISE = CatalogFlag.PSF_OUT_OF_DOMAIN, CatalogFlag.NOISE_OUT_OF_DOMAIN
_DENSITY = CatalogFlag.DENSITY_OUT_OF_DOMAIN
# Title, flag of the rows concerned and text of a value by the name of a quantity.
_QUANTITIES = {
    'psf_area': ('PSF', _PSF, _width),
    'density': ('density of sources', _DENSITY, '{:.2g} per pixel'.format),
    'noise': ('noise of the sky', _NOISE, '{:.3g} electrons'.format),
    'floor_snr': ('flux_min stands for a signal-to-noise ratio', None, '{:.3g}'.format),
    'psf_wings': ('wings of the PSF', _PSF, str),
    'psf_ellipticity': ('ellipticity of the PSF', _PSF, '{:.2f}'.format),
    'psf_error': ('relative error of the PSF', _PSF, _TWO),
    'background_error': ('error of the background in units of the noise', _NOISE, _TWO),
    'pixel_scatter': ('scatter of the pixels over the stated noise', _NOISE, _TWO),
    'pixel_level': ('median of the pixels, in units of the noise', _NOISE, _TWO),
    'pixel_holes': ('share of pixels 7 sigma below the background', _NOISE, _TWO),
    'correlation': ('noise correlation', _NOISE, str),
}


@dataclasses.dataclass(frozen=True, eq=False)
class DomainFinding:
    """
    One way in which an image is unlike those that an encoder was trained on.

    The value in the image and its range in training are texts; ``outside`` are the
    tiles concerned, or one for all.
    """

    name: str
    value: str
    allowed: str
    outside: np.ndarray

    @property
    def title(self):
        """The quantity in words."""
        return _QUANTITIES[self.name][0]

    @property
    def flag(self):
        """Flag of the rows concerned, or None."""
        return _QUANTITIES[self.name][1]

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


def domain_findings(domain, facts):
    """List of `DomainFinding`, empty where all facts of `check_domain` are within."""
    ranges = PIXEL_LIMITS | {
        'psf_area': domain.psf_area,
        'density': (0.0, domain.density[1]),
        'noise': domain.noise,
        'floor_snr': domain.floor_snr,
        'psf_error': (-np.inf, domain.psf_error),
        'background_error': (-np.inf, domain.background_error),
    }
    findings = {}
    for name, limits in ranges.items():
        if limits is None or facts.get(name) is None:
            continue
        value, (low, high) = np.atleast_2d(facts[name]), limits
        near = 1.0 if name in PIXEL_LIMITS else _TOLERANCE
        outside = (value > high * near) | (value < low / near)
        if outside.any():
            show = _QUANTITIES[name][2]
            allowed = f'{show(low)} to' if np.isfinite(low) else 'up to'
            texts = show(value[outside].flat[0]), f'{allowed} {show(high)}'
            findings[name] = DomainFinding(name, *texts, outside)
    findings |= _psf_findings(domain, facts, broad='psf_area' in findings)
    correlation = facts['correlation']
    largest = domain.correlation * _TOLERANCE
    if max(correlation) > largest or min(correlation) < _CORRELATION_MIN:
        findings['correlation'] = DomainFinding(
            'correlation',
            ', '.join(map('{:.2f}'.format, correlation)),
            f'{_CORRELATION_MIN} to {domain.correlation}',
            np.ones((1, 1), dtype=bool),
        )
    return [findings[name] for name in _QUANTITIES if name in findings]


def _psf_findings(domain, facts, *, broad):
    """Where wings or ellipticity of the PSF are outside, by name."""
    features, findings = facts.get('psf_features'), {}
    if features is None or domain.psf_features is None:
        return findings
    limits = np.array(domain.psf_features)
    excess = (features[2:6] - limits[1][2:6, None, None]).max(0)
    # A broad PSF is bright far out too.
    if not broad and (excess > _WING_TOLERANCE).any():
        findings['psf_wings'] = DomainFinding(
            'psf_wings',
            f'up to {two_digits(math.exp(excess.max()))} times too bright',
            'no brighter than these',
            excess > _WING_TOLERANCE,
        )
    # `GaussianPSF.describe` gives ten times e1 and e2.
    size = np.hypot(*features[6:8]) / 10
    most = max(np.abs(limits[:, 6:8]).max() / 10, 0.01)
    outside = size > most * 2**0.5 + _ELLIPTICITY_TOLERANCE
    if outside.any():
        findings['psf_ellipticity'] = DomainFinding(
            'psf_ellipticity', f'{size.max():.2f}', f'up to {most:.2f}', outside
        )
    return findings


def check_domain(encoder, facts):
    """
    Compare an image with the domain of an encoder: flags by tile (or one), and texts.

    Facts are ``psf_area``, ``noise``, ``density`` (arrays by tile or scalars),
    ``correlation`` (pair) and ``floor_snr`` (array, or `None` for the usual one); those
    of `pixel_statistics`, ``psf_features`` ``(8, rows, columns)``, ``psf_error`` and
    ``background_error`` may be left out.
    """
    flags, messages = np.zeros((1, 1), dtype=np.int64), []
    domain = Domain.of(encoder)
    for finding in domain_findings(domain, facts) if domain is not None else ():
        messages.append(finding.message(encoder.name))
        if finding.flag is not None:
            flags = flags | np.where(finding.outside, int(finding.flag), 0)
    return flags, messages


def outside_of_bands(band):
    """Texts by the number in which a band is unlike those of surveys."""
    texts = {}
    for name, tolerance in _BAND_TOLERANCES.items():
        known = [getattr(own, name) for own in BANDS.values()]
        value, low, high = getattr(band, name), min(known), max(known)
        if not low / tolerance < value < high * tolerance:
            texts[name] = f'({value:g} nm) is outside {{}} ({low:g} to {high:g} nm)'
    return texts


def band_messages(band, encoder):
    """Texts where a band is unlike those of the training."""
    found = outside_of_bands(band) if band and encoder.config.bands else {}
    what = 'what bands were trained on'
    return [
        f'the {name} of the band {text.format(what)}' for name, text in found.items()
    ]


# -- pixels ----------------------------------------------------------------------


def pixel_statistics(image, good, *, shape):
    """
    Statistics of the pixels in units of the stated noise, by cells of 256 px.

    Maps of some rows and columns of tiles (``shape``): ``pixel_scatter``, from the
    pixels darker than the median, over the stated noise (at most 1 where there are too
    many sources for it to mean noise); ``pixel_level``, the median over the noise;
    ``pixel_holes``, the share of pixels 7 sigma too dark.  NaN where there are too few
    pixels.
    """
    ny, nx = image.shape
    n_rows, n_columns = -(-ny // _CELL), -(-nx // _CELL)
    maps = np.full((3, n_rows, n_columns), np.nan)
    for i, rows in enumerate(spans(ny, n_rows)):
        for j, columns in enumerate(spans(nx, n_columns)):
            cell = image[rows, columns]
            # Every fourth pixel of a large cell is enough.
            step = 2 if cell.size > 20000 else 1
            values = cell[::step, ::step][good[rows, columns][::step, ::step]]
            if len(values) >= _CELL_PIXELS:
                values = np.sort(values)
                places = np.array([_LOW, 0.5]) * (len(values) - 1)
                low, middle = np.interp(places, np.arange(len(values)), values)
                scatter = (middle - low) / _LOW_SIGMA
                if middle > _EMPTY_LEVEL:
                    scatter = min(scatter, 1.0)
                holes = np.searchsorted(values, _HOLE) / len(values)
                maps[:, i, j] = scatter, middle, holes
    row, column = (
        np.minimum(np.arange(n) * n_cells // n, n_cells - 1)
        for n, n_cells in zip(shape, maps.shape[1:], strict=True)
    )
    return dict(zip(PIXEL_LIMITS, maps[:, row[:, None], column], strict=True))


# -- tiles -----------------------------------------------------------------------


def check_fullness(encoder, posterior, image=0):
    """
    Find where most tiles of an image of a batch have a source.

    Stars of any density of the training leave tiles empty; larger galaxies, nebulae,
    and noise that is stronger than stated do not. Returns flags by tile, the text of a
    warning or None, and whether most of the image is full.
    """
    count = posterior.decided()[0].count[image].cpu().numpy()
    # One star fills all of an image of a few tiles.
    if count.size < _AREA_TILES:
        return np.zeros(count.shape, dtype=int), None, False
    share = scipy.ndimage.uniform_filter(
        (count > 0).astype(float), _AREA, mode='nearest'
    )
    expected = domain_of(encoder).density[1] * posterior.grid.size**2
    full = share > max(_FULL, _FULL_MARGIN * -math.expm1(-expected))
    flags = np.where(full, int(_DENSITY), 0)
    if not full.any():
        return flags, None, False
    part = full.mean()
    where = 'all' if part > 0.99 else f'{100 * part:.0f} %' if part > 0.01 else 'a part'
    message = (
        f'sources were found nearly everywhere in {where} of the image (in '
        f'{100 * share.max():.0f} % of the tiles of {posterior.grid.size} px): stars '
        f'too dense for {encoder.name!r}, a large galaxy or nebula, or noise above '
        'bkg_error; rows concerned are flagged density_out_of_domain. Give background '
        "and bkg_error, or for a field of stars encoder='stars-crowded'"
    )
    # Nothing is refined from half of the image on.
    mostly = part > 0.5
    if mostly:
        message += '. Shapes and sources on borders of tiles were not refined'
    return flags, message, mostly
