# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Header cards of the detector and units of images: used where sound, named where not.
"""

import re

import astropy.units as u
import numpy as np
from astropy.io.fits.card import Undefined
from astropy.io.fits.verify import VerifyError

from bliss_astro._warnings import warn

from ._bands import find_band
from ._sky import step_of

# Cards by argument, of which the first that is there counts. Numbers are positive, or
# may be 0 or of any sign.
_CARDS = {
    'background': (('BKGLEVEL',), 'any'),
    'psf_error': (('PSFERR',), 'zero'),
    'background_error': (('BKGRELER',), 'zero'),
    'effective_gain': (('EFFGAIN',), 'positive'),
    'read_noise': (('RDNOISE', 'READNOIS', 'RON', 'READNOISE'), 'zero'),
    'saturation': (('SATURATE', 'SATLEVEL', 'SATURAT'), 'positive'),
}
KEYWORDS = {argument: cards[0] for argument, (cards, _) in _CARDS.items()}
"""Cards of `Exposure.to_ccddata`."""
# Those that no other program writes, as good as given.
_OWN = ('BKGLEVEL', 'PSFERR', 'BKGRELER', 'EFFGAIN')
_SKIES = ('BKGLEVEL', 'SKYLEVEL', 'SKY')
_GAINS = ('GAIN', 'EGAIN', 'CCDGAIN')
_TIMES = ('EXPTIME', 'EXPOSURE', 'TEXPTIME', 'EXP_TIME', 'ITIME')
_ZEROS = ('MAGZERO', 'MAGZPT', 'MAGZP', 'ZEROPOINT', 'ZEROPNT', 'PHOTZP', 'PHOTZPT')
_DEPTHS = ('NCOMBINE', 'NEXP', 'NIMAGES', 'NCOADD')
_TEXTS = {'band': 'FILTER', 'date_obs': 'DATE-OBS'}
COUNTS = (u.adu, u.DN, u.ct)
# Share of the pixels that a saturation level exceeds, at least.
_BELOW_SATURATION = 0.95
# Ratio of the sky's photon noise by a header's gain to the variance that is seen, and
# noise of the sky in electrons below that of detectors that do not count photons,
# beyond which that gain is refused.
_MAX_PHOTON_RATIO, _MIN_ELECTRONS = 50.0, 0.5

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
    Numbers of a header, or meta, about an image, checked card by card.

    Attributes
    ----------
    known : dict of str to float
        Arguments of `~bliss_astro.exposures.Exposure`, in the unit of the image.

    meta : dict
        ``exposure_time`` (s), ``zero_point`` (mag), ``n_exposures``, ``band`` and
        ``date_obs``, as far as the header has them.

    sources, used : dict of str to str
        Source of each of ``known``, if it is not a card of our own, and its card.

    ignored : list of str
        Cards that are not sound, and why.

    band : `Band` or None
        Band, where its filter is a known one.
    """

    def __init__(self, header, data, unit):
        self.known, self.meta, self.sources, self.used = {}, {}, {}, {}
        self.ignored = []
        self._header = {} if header is None else header
        for argument, (cards, sign) in _CARDS.items():
            name, number = self._number(cards, sign)
            if name is not None:
                self.known[argument], self.used[argument] = number, name
                if name not in _OWN and number != 0:
                    self.sources[argument] = f'header: {name}'
        if 'effective_gain' not in self.known:
            self._take_gain(unit)
        if 'saturation' in self.known:
            sample = np.asarray(data)[np.isfinite(data)]
            sample = sample[:: max(1, sample.size // 100_000)]
            below = sample < self.known['saturation']
            if sample.size and np.mean(below) < _BELOW_SATURATION:
                self.ignore('saturation', 'below most of the image')
        self.band = find_band(self._header)
        self._take_meta()

    def _get(self, names):
        """Return the first card that is there and not blank: name and value."""
        for name in names:
            try:
                value = self._header.get(name)
            except VerifyError:
                self.ignored.append(f'{name} (unreadable)')
                continue
            if isinstance(value, Undefined | None):
                continue
            if not isinstance(value, str) or value.strip():
                return name, value
        return None, None

    def _number(self, names, sign='positive'):
        """Return the first of some cards as name and sound number, or None twice."""
        name, value = self._get(names)
        if name is None:
            return None, None
        number = _plain_number(value)
        if number is None:
            reason = f'{value!r:.40} (no number)'
        elif not np.isfinite(number):
            reason = f'{number} (not finite)'
        elif sign == 'whole' and number % 1:
            reason = f'{number:g} (not a whole number)'
        elif sign == 'any' or number > 0 or (sign == 'zero' and number == 0):
            return name, number
        else:
            reason = f'{number:g} (not positive)'
        self.ignored.append(f'{name} = {reason}')
        return None, None

    def _take_gain(self, unit):
        """Work out electrons per unit of the data."""
        if unit == u.electron:
            # Cards still hold the gain that was divided out.
            self.known['effective_gain'] = 1.0
            self.sources['effective_gain'] = 'header: data are in electrons'
            return
        counts = unit if unit is None or unit in COUNTS else unit * u.s
        if counts not in (None, u.electron, *COUNTS):
            return
        cards = [] if counts == u.electron else [_GAINS]
        cards += [_TIMES] * (counts is not unit)
        names, numbers = zip(*map(self._number, cards), strict=True)
        if None not in names:
            self.known['effective_gain'] = float(np.prod(numbers))
            self.used['effective_gain'] = ' and '.join(names)
            self.sources['effective_gain'] = f'header: {" times ".join(names)}'

    def _take_meta(self):
        n_before = len(self.ignored)
        self.meta['exposure_time'] = self._number(_TIMES)[1]
        # Named already where it is needed.
        del self.ignored[n_before:]
        self.meta['zero_point'] = self._number(_ZEROS, 'any')[1]
        depths = (self._number((name,), 'whole')[1] for name in _DEPTHS)
        self.meta['n_exposures'] = next((int(n) for n in depths if n), None)
        for key, name in _TEXTS.items():
            value = self._get((name,))[1]
            self.meta[key] = value.strip() if isinstance(value, str) else None
        self.meta = {key: n for key, n in self.meta.items() if n is not None}

    def sky(self):
        """Sky that the header states."""
        for card in _SKIES:
            number = _plain_number(self._get((card,))[1])
            if number is not None and np.isfinite(number):
                return number
        msg = f"background='header': the header has none of {', '.join(_SKIES)}"
        raise ValueError(msg)

    def complete(self, given, unit, sources):
        """
        Add numbers and band of the header to arguments given, and their sources.

        Both are changed in place; those in the unit of the image get ``unit``.
        """
        if given.get('band') is None:
            given['band'] = self.band
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

    def warn_ignored(self):
        """Warn, once, of all cards that are not sound."""
        if self.ignored:
            warn(f'header cards ignored: {"; ".join(dict.fromkeys(self.ignored))}')


def gain_failure(exposure):
    """Contradiction of a gain and the noise of the sky in words, or None."""
    # A bias may still be in the sky, so only what is far off is refused.
    level, noise, gain = (
        float(np.median(value))
        for value in (exposure.background, exposure.bkg_error, exposure.effective_gain)
    )
    ratio = np.sqrt(max(level, 0.0) / gain) / noise
    if ratio**2 > _MAX_PHOTON_RATIO:
        return f'its sky noise is {ratio:.0f} times what is seen'
    if noise * gain < _MIN_ELECTRONS and not step_of(exposure):
        # Of an image whose unit was changed; counted photons are whole numbers.
        return f'with it the noise of the sky is {noise * gain:.2g} electrons'
    return None


def _plain_number(value):
    """Read a number of a card, which may be text with a comment; None if it is none."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, str):
        value = value.partition('/')[0].strip().strip('\'"')
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def parse_unit(text):
    """
    Unit of the flux of a pixel as FITS headers spell it, or `None` if not stated.

    A value of ``BUNIT`` is such as ``'ADU'``, ``'ELECTRONS/S'`` or ``'e-'``; a comment
    after a slash and "per pixel" are dropped. Unknown ones raise ValueError.
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
            if not isinstance(unit, u.UnitBase):
                return unit
            powers = dict(zip(unit.bases, unit.powers, strict=True))
            unit = unit * u.pix if powers.get(u.pix) == -1 else unit
            return None if unit == u.dimensionless_unscaled else unit
    raise ValueError(f'{text!r} is no unit of astropy')


def _spell(found):
    """Spell a word as astropy does."""
    # Mega and milli differ by their case alone.
    return 'MJy' if found[0] == 'MJY' else _SPELLINGS.get(found[0].lower(), found[0])
