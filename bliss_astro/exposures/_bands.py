# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Bands: effective wavelengths and widths of the filters of surveys, and their names.
"""

import contextlib
import math
import re
from dataclasses import dataclass

import astropy.units as u
from astropy.io.fits.verify import VerifyError

from bliss_astro._arguments import check_number, require, require_type

# Effective wavelength (mean weighted by photons of a source of constant flux density
# per frequency) and full width at half maximum in nm, of the published responses with
# atmosphere: Doi et al. 2010 (SDSS), throughputs v1.9 of Rubin Observatory (LSST),
# Abbott et al. 2018 (DECam), Kawanomoto et al. 2018 with the filters r2 and i2 (HSC),
# Zou et al. 2017 (90prime), Dey et al. 2019 (Mosaic).
_RESPONSES = {
    'SDSS': 'u 358.4 52.3, g 468.5 126.1, r 616.8 115.3, i 748.7 126.7, z 889.0 99.7',
    'LSST': 'u 370.9 46.4, g 476.7 148.5, r 619.4 140.0, i 753.9 128.7, z 866.8 104.1, '
    'y 973.9 86.4',
    'DECam': 'g 479.0 129.9, r 640.3 148.4, i 780.3 148.2, z 915.9 147.1, Y 989.3 66.1',
    'HSC': 'g 477.3 138.3, r 619.7 150.3, i 772.0 157.3, z 890.0 77.0, y 976.7 74.1',
    '90prime': 'g 474.0 146.3, r 638.4 142.9',
    'Mosaic': 'z 918.9 144.6',
}
# Texts of INSTRUME, or of FILTER, by survey. One letter of a filter, and what follows.
_CAMERAS = {
    'Mosaic': r'mosaic',
    '90prime': r'90prime',
    'HSC': r'hsc|hyper suprime',
    'LSST': r'lsst',
    'DECam': r'decam',
}
_FILTER = re.compile(
    r"(?:HSC-|SDSS[ _.-]|bok)?([ugrizyGRIZY])(?:'|2|d|p|_\d+)?(?:\s|$)"
)
# What a band may be, for messages.
BAND_WORDS = (
    'be one of u, g, r, i, z, y, or of a survey, such as DECam.g (BANDS has all), or '
    'a Band(name, wavelength, width)'
)
# Cards of our own files and of the meta of a CCDData.
CARDS = ('BAND', 'BANDWAVE', 'BANDFWHM')


@dataclass(frozen=True)
class Band:
    """
    Band of a survey, as a point: its effective wavelength and width.

    Parameters
    ----------
    name : str
        Name, such as ``'g'``, as in the columns of tables: ASCII, not with 'err' at
        its end.

    wavelength, width : float or `~astropy.units.Quantity`
        Effective wavelength and full width at half maximum in nm.

    Raises
    ------
    TypeError, ValueError
        If the name cannot be used, or a number is not positive.

    Examples
    --------
    >>> from bliss_astro.exposures import BANDS, Band
    >>> BANDS['g']
    Band(name='g', wavelength=468.5, width=126.1)
    >>> BANDS['DECam.g'].wavelength
    479.0
    >>> Band('F814W', 804.5, 154.0).name
    'F814W'
    """

    name: str
    wavelength: float
    width: float

    def __post_init__(self):
        require_type('name', self.name, str)
        require(self.name.strip(), 'name', 'not be empty', repr(self.name), ValueError)
        # Columns are flux_NAME and flux_NAME_err.
        sound = re.fullmatch(r'[!-~]|[!-~][ -~]*[!-~](?<!err)', self.name)
        allowed = "be of ASCII characters and not end in 'err'"
        require(sound, 'name', allowed, repr(self.name))
        for key in ('wavelength', 'width'):
            value = getattr(self, key)
            value = value.to_value(u.nm) if isinstance(value, u.Quantity) else value
            object.__setattr__(self, key, check_number(key, value, sign='positive'))

    def __str__(self):
        return self.name

    @property
    def description(self):
        """
        Natural logarithms of wavelength and width over those of r of SDSS.

        Inputs of networks: zeros for r of SDSS.
        """
        r = BANDS['r']
        ratios = self.wavelength / r.wavelength, self.width / r.width
        return tuple(math.log(ratio) for ratio in ratios)


def _all_bands():
    """Bands by name: of SDSS, and y of LSST, by letter alone too."""
    bands = {}
    for survey, text in _RESPONSES.items():
        for name, *numbers in map(str.split, text.split(',')):
            band = bands[f'{survey}.{name}'] = Band(name, *map(float, numbers))
            if survey == 'SDSS' or f'{survey}.{name}' == 'LSST.y':
                bands[name] = band
    return bands


BANDS = _all_bands()
"""
Bands by name: ``'u'``, ``'g'``, ``'r'``, ``'i'``, ``'z'`` of SDSS and ``'y'`` of LSST.

Those of other surveys and instruments with their name before: ``'DECam.g'``,
``'HSC.g'``, ``'LSST.g'``, ``'90prime.g'``, ``'Mosaic.z'``.
"""


def as_band(value, name='band'):
    """Band of a name, also as in headers, or a band itself, or None."""
    if value is None or isinstance(value, Band):
        return value
    require_type(name, value, str, Band)
    found = BANDS.get(value) or find_band({'FILTER': value})
    require(found is not None, name, BAND_WORDS, repr(value))
    return found


def find_band(header):
    """Band of a header's, or meta's, cards of our own or ``FILTER``; or None."""
    texts = dict.fromkeys((*CARDS, 'FILTER', 'INSTRUME'))
    for key in texts:
        with contextlib.suppress(VerifyError):
            texts[key] = header.get(key)
    name, *numbers = (texts[key] for key in CARDS)
    try:
        return Band(name, *map(float, numbers))
    except (TypeError, ValueError):
        pass
    found = _FILTER.match(str(texts['FILTER']).strip())
    if found is None:
        return None
    place = ' '.join(str(texts[key]) for key in ('INSTRUME', 'FILTER'))
    for survey, pattern in _CAMERAS.items():
        if re.search(pattern, place, re.IGNORECASE):
            names = (f'{survey}.{x}' for x in (found[1].lower(), found[1].upper()))
            return next((BANDS[key] for key in names if key in BANDS), None)
    # Of other cameras: letters of which the upper ones are other filters.
    return BANDS.get(found[1])


def band_cards(band):
    """Cards of a band, for headers and meta."""
    if band is None:
        return {}
    return dict(zip(CARDS, (band.name, band.wavelength, band.width), strict=True))
