# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Header cards of the detector and units of images: used where sound, named where not.
"""

import re

import astropy.units as u
import numpy as np
from astropy.io.fits.verify import VerifyError

from bliss_astro._warnings import warn

__all__ = []

# Cards by argument; the first that is there counts. Numbers are positive, or may be 0
# or of any sign. Cards of the first group are those of `Exposure.to_ccddata`, as good
# as given.
_OWN = {
    'background': ('BKGLEVEL', 'any'),
    'psf_error': ('PSFERR', 'zero'),
    'background_error': ('BKGRELER', 'zero'),
    'effective_gain': ('EFFGAIN', 'positive'),
}
_GAINS = ('GAIN', 'EGAIN', 'CCDGAIN')
_TIMES = ('EXPTIME', 'EXPOSURE', 'TEXPTIME', 'EXP_TIME', 'ITIME')
_READ_NOISES = ('RDNOISE', 'READNOIS', 'RON', 'READNOISE')
_SATURATIONS = ('SATURATE', 'SATLEVEL', 'SATURAT')
_ZERO_POINTS = (
    'MAGZERO',
    'MAGZPT',
    'MAGZP',
    'ZEROPOINT',
    'ZEROPNT',
    'PHOTZP',
    'PHOTZPT',
)
_DEPTHS = ('NCOMBINE', 'NEXP', 'NIMAGES', 'NCOADD')
_TEXTS = {'band': 'FILTER', 'date_obs': 'DATE-OBS'}
_COUNTS = (u.adu, u.DN, u.ct)
# Share of the pixels that a saturation level exceeds, at least.
_BELOW_SATURATION = 0.95
_SECTION = re.compile(r'\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]')

# Spellings of units in headers, in lower case, by astropy's own.
_SPELLINGS = {
    word: unit
    for unit, words in {
        'nmgy': 'nanomaggy nanomaggies',
        'ct': 'counts count cts',
        'DN': 'dn dns',
        'adu': 'adu adus',
        'electron': 'electron electrons photoelectron photoelectrons elec e- e',
        'photon': 'photons',
        's': 's sec secs second seconds',
        'pix': 'pixel pixels px',
        'Jy': 'jy jansky',
        'uJy': 'ujy microjy',
        'nJy': 'njy',
        'kJy': 'kjy',
        'Angstrom': 'ang angstrom angstroms',
        'Hz': 'hz',
        'sr': 'sr',
        '/': 'per',
    }.items()
    for word in words.split()
}
# Words, and electrons with their sign; not the exponent of a number.
_WORD = re.compile(r'(?<![\w.])(?:[eE]-(?!\d)|[A-Za-z\u00b5\u03bc]+)')
# What a text card carries along when a program pastes value and comment.
_COMMENT = re.compile(r'\s*/(?:\s|$).*')
_NOT_STATED = ('', 'none', 'unknown', 'n/a', 'na', 'uncalibrated', 'undefined')


class HeaderCards:
    """
    Numbers of a header about an image, checked card by card.

    Parameters
    ----------
    header : mapping
        FITS header, or meta of an NDData.

    data : 2D array_like
        Image, plain numbers in ``unit``.

    unit : `~astropy.units.Unit` or None
        Its unit.

    Attributes
    ----------
    known : dict of str to float
        Arguments of `~bliss_astro.exposures.Exposure`, in ``unit``.

    meta : dict
        ``exposure_time`` (s), ``zero_point`` (mag), ``n_exposures``, ``band`` and
        ``date_obs``, as far as the header has them.

    sources : dict of str to str
        Source of each of ``known``, if it is not a card of our own.

    used : dict of str to str
        Card behind each of ``known``.

    ignored : list of str
        Cards that are not sound, and why.
    """

    def __init__(self, header, data, unit):
        self.known, self.meta, self.sources, self.used = {}, {}, {}, {}
        self.ignored = []
        self._header = {} if header is None else header
        for argument, (card, sign) in _OWN.items():
            self._take(argument, (card,), sign, own=True)
        if 'effective_gain' not in self.known:
            self._take_gain(unit)
        self._take('read_noise', _READ_NOISES, 'zero')
        self._take('saturation', _SATURATIONS, 'positive')
        level = self.known.get('saturation')
        if level is not None:
            sample = np.asarray(data)[np.isfinite(data)]
            sample = sample[:: max(1, sample.size // 100_000)]
            if sample.size and np.mean(sample < level) < _BELOW_SATURATION:
                self.ignore('saturation', 'below most of the image')
        self._take_meta()

    def _get(self, names):
        """Return the first card that is there and not blank: name and value."""
        for name in names:
            try:
                value = self._header.get(name)
            except VerifyError:
                self.ignored.append(f'{name} (unreadable)')
                continue
            blank = isinstance(value, str) and not value.strip()
            # FITS cards without a value are no NoneType.
            if value is not None and not blank and type(value).__name__ != 'Undefined':
                return name, value
        return None, None

    def _number(self, names, sign='positive'):
        """Return the first of some cards as name and sound number, or None twice."""
        name, value = self._get(names)
        if name is None:
            return None, None
        number = plain_number(value)
        if number is None:
            self.ignored.append(f'{name} = {value!r:.40} (no number)')
        elif not np.isfinite(number):
            self.ignored.append(f'{name} = {number} (not finite)')
        elif sign == 'any' or number > 0 or (sign == 'zero' and number == 0):
            return name, number
        else:
            self.ignored.append(f'{name} = {number:g} (not positive)')
        return None, None

    def _take(self, argument, names, sign, *, own=False):
        name, number = self._number(names, sign)
        if name is not None:
            self.known[argument], self.used[argument] = number, name
            if not own and number != 0:
                self.sources[argument] = f'header: {name}'

    def _take_gain(self, unit):
        """Work out electrons per unit of the data."""
        if unit == u.electron:
            # Cards still hold the gain that was divided out.
            self.known['effective_gain'] = 1.0
            self.sources['effective_gain'] = 'header: data are in electrons'
            return
        per_second = unit is not None and unit * u.s in (u.electron, *_COUNTS)
        if not (per_second or unit is None or unit in _COUNTS):
            return
        cards = [] if per_second and unit * u.s == u.electron else [_GAINS]
        cards += [_TIMES] * per_second
        found = [self._number(names) for names in cards]
        names = [name for name, _ in found]
        if None not in names:
            self.known['effective_gain'] = float(np.prod([n for _, n in found]))
            self.used['effective_gain'] = ' and '.join(names)
            self.sources['effective_gain'] = 'header: ' + ' times '.join(names)

    def _take_meta(self):
        before = list(self.ignored)
        name, number = self._number(_TIMES)
        if name is None:
            # Named already where it is needed.
            self.ignored = before
        else:
            self.meta['exposure_time'] = number
        name, number = self._number(_ZERO_POINTS, 'any')
        if name is not None:
            self.meta['zero_point'] = number
        for name in _DEPTHS:
            value = self._get((name,))[1]
            if type(value) is int and value > 0:
                self.meta['n_exposures'] = value
                break
        for key, name in _TEXTS.items():
            value = self._get((name,))[1]
            if isinstance(value, str):
                self.meta[key] = value.strip()

    def complete(self, given, unit, sources):
        """
        Add the numbers of the header to those given, and the sources of these.

        Parameters
        ----------
        given : dict
            Arguments of `~bliss_astro.exposures.Exposure`; changed in place.

        unit : `~astropy.units.Unit` or None
            Unit of the image, if its numbers have one.

        sources : dict of str to str
            Changed in place.
        """
        for name, value in self.known.items():
            if given.get(name) is None:
                in_unit = unit is not None and name in ('background', 'saturation')
                given[name] = value * unit if in_unit else value
                if name in self.sources:
                    sources[name] = self.sources[name]

    def ignore(self, argument, reason):
        """Take back the card of an argument for a reason."""
        value = self.known.pop(argument)
        self.sources.pop(argument, None)
        self.ignored.append(f'{self.used.pop(argument)} = {value:g} ({reason})')


def plain_number(value):
    """Read a number of a card, which may be text with a comment; None if it is none."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, str):
        value = value.partition('/')[0].strip().strip('\'"')
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def warn_ignored(cards):
    """Warn, once, of all header cards that are not sound."""
    if cards.ignored:
        warn(f'header cards ignored: {"; ".join(dict.fromkeys(cards.ignored))}')


def trim_section(header, shape):
    """
    Part of an image of that shape that its header declares exposed to the sky.

    Returns the card (``TRIMSEC`` or ``DATASEC``) and slices of rows and columns, or
    `None` twice if there is no card, or it does not fit the image, or is all of it.
    """
    for name in ('TRIMSEC', 'DATASEC'):
        found = _SECTION.search(str(header.get(name, '')))
        if found is None:
            continue
        x1, x2, y1, y2 = (int(number) for number in found.groups())
        inside = 1 <= x1 <= x2 <= shape[1] and 1 <= y1 <= y2 <= shape[0]
        if inside and (y2 - y1 + 1, x2 - x1 + 1) != tuple(shape):
            return name, (slice(y1 - 1, y2), slice(x1 - 1, x2))
    return None, None


def parse_unit(text):
    """
    Read the unit of an image as FITS headers spell it.

    Parameters
    ----------
    text : str
        Value of ``BUNIT``, such as ``'ADU'``, ``'ELECTRONS/S'`` or ``'e-'``; a
        comment after a slash is dropped.

    Returns
    -------
    unit : `~astropy.units.Unit` or None
        Unit of the flux that a pixel holds: "per pixel" is dropped. `None`
        if the text states that there is none.

    Raises
    ------
    ValueError
        If the unit is unknown to astropy.
    """
    text = str(text).strip().strip('\'"[]').strip()
    for candidate in (text, _COMMENT.sub('', text)):
        if candidate.lower() in _NOT_STATED:
            return None
        for form in (_WORD.sub(_spell, candidate), candidate):
            # Several slashes are understood by astropy, but not without a word.
            first, *others = form.split('/')
            try:
                unit = u.Unit(f'{first}/({"*".join(others)})' if others else first)
            except (ValueError, TypeError):
                continue
            return _without_pixel(unit)
    msg = f'{text!r} is no unit of astropy'
    raise ValueError(msg)


def _spell(found):
    """Spell a word as astropy does."""
    # Mega and milli differ by their case alone.
    return 'MJy' if found[0] == 'MJY' else _SPELLINGS.get(found[0].lower(), found[0])


def _without_pixel(unit):
    """Unit of the light of one pixel, None for a plain number."""
    if not isinstance(unit, u.UnitBase):
        return unit
    if u.pix in unit.bases and unit.powers[unit.bases.index(u.pix)] == -1:
        unit = unit * u.pix
    return None if unit == u.dimensionless_unscaled else unit
