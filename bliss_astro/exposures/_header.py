# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Header cards about the detector: used where sound, named where not.
"""

import re

import astropy.units as u
import numpy as np
from astropy.io.fits.verify import VerifyError

from bliss_astro._warnings import warn

__all__ = ['HeaderCards', 'trim_section', 'warn_ignored']

# Cards by what they say; the first that is there counts. Those of Exposure's own
# come first.
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
_OWN = {
    'background': 'BKGLEVEL',
    'psf_error': 'PSFERR',
    'background_error': 'BKGRELER',
}
_COUNTS = (u.adu, u.DN, u.ct)
# A saturation level is above so large a share of the pixels.
_BULK = 0.95
_SECTION = re.compile(r'\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]')


class HeaderCards:
    """
    What a header says of an image, checked card by card.

    Parameters
    ----------
    header : mapping
        A FITS header, or the meta of an NDData.

    data : 2D array_like
        The image, plain numbers in ``unit``.

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
        Where each of ``known`` comes from, if not from a card of our own.

    used : dict of str to str
        The card behind each of ``known``.

    ignored : list of str
        The cards that are not sound, and why.
    """

    def __init__(self, header, data, unit):
        self.known, self.meta, self.sources = {}, {}, {}
        self.used, self.ignored = {}, []
        self._header = {} if header is None else header
        self._take_own()
        if 'effective_gain' not in self.known:
            self._take_gain(unit)
        self._take('read_noise', _READ_NOISES, zero=True)
        self._take_saturation(np.asarray(data))
        self._take_meta()

    def _get(self, names):
        """
        Return the first card that is there and not blank: name and value.
        """
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

    def _number(self, names, *, zero=False, any_sign=False):
        """
        Return the first of some cards as a sound number, or `None`.
        """
        name, value = self._get(names)
        if name is None:
            return None, None
        number = plain_number(value)
        if number is None:
            self.ignored.append(f'{name} = {value!r:.40} (no number)')
        elif not np.isfinite(number):
            self.ignored.append(f'{name} = {number} (not finite)')
        elif not (any_sign or number > 0 or (zero and number == 0)):
            self.ignored.append(f'{name} = {number:g} (not positive)')
        else:
            return name, number
        return None, None

    def _take(self, argument, names, **how):
        name, number = self._number(names, **how)
        if name is not None:
            self.known[argument] = number
            self.used[argument] = name
        if name is not None and number != 0:
            self.sources[argument] = f'header: {name}'

    def _take_own(self):
        """
        Take what `Exposure.to_ccddata` writes: as good as given.
        """
        for argument, card in _OWN.items():
            signed = argument == 'background'
            name, number = self._number((card,), zero=True, any_sign=signed)
            if name is not None:
                self.known[argument], self.used[argument] = number, name
        name, number = self._number(('EFFGAIN',))
        if name is not None:
            self.known['effective_gain'], self.used['effective_gain'] = number, name

    def _take_gain(self, unit):
        """
        Work out electrons per unit of the data.
        """
        if unit == u.electron:
            # Cards still hold the gain that was divided out.
            self.known['effective_gain'] = 1.0
            self.sources['effective_gain'] = 'header: data are in electrons'
            return
        rate = None if unit is None else unit * u.s
        per_second = rate is not None and rate in (u.electron, *_COUNTS)
        factor, names = 1.0, []
        if unit is None or unit in _COUNTS or (per_second and rate != u.electron):
            name, factor = self._number(_GAINS)
            names.append(name)
        elif not per_second:
            return
        if per_second:
            name, seconds = self._number(_TIMES)
            names.append(name)
            factor = None if None in (factor, seconds) else factor * seconds
        if None in names:
            return
        self.known['effective_gain'] = factor
        self.used['effective_gain'] = ' and '.join(names)
        self.sources['effective_gain'] = 'header: ' + ' times '.join(names)

    def _take_saturation(self, data):
        name, level = self._number(_SATURATIONS)
        if name is None:
            return
        sample = data[np.isfinite(data)]
        sample = sample[:: max(1, sample.size // 100_000)]
        if sample.size and np.mean(sample < level) < _BULK:
            self.ignored.append(f'{name} = {level:g} (below most of the image)')
            return
        self.known['saturation'], self.used['saturation'] = level, name
        self.sources['saturation'] = f'header: {name}'

    def _take_meta(self):
        for key, names, how in (
            ('exposure_time', _TIMES, {}),
            ('zero_point', _ZERO_POINTS, {'any_sign': True}),
        ):
            before = list(self.ignored)
            name, number = self._number(names, **how)
            if name is not None:
                self.meta[key] = number
            elif key == 'exposure_time':
                # Named already where it is needed.
                self.ignored = before
        for name in _DEPTHS:
            value = self._get((name,))[1]
            whole = isinstance(value, int) and not isinstance(value, bool)
            if whole and value > 0:
                self.meta['n_exposures'] = value
                break
        for key, names in (('band', ('FILTER',)), ('date_obs', ('DATE-OBS',))):
            value = self._get(names)[1]
            if isinstance(value, str):
                self.meta[key] = value.strip()

    def complete(self, given, unit, sources):
        """
        Add the numbers of the header to those given, and say where they come from.

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
        """
        Take back what a card said.

        Parameters
        ----------
        argument : str
            One of ``known``.

        reason : str
            Why its card is not sound.
        """
        value = self.known.pop(argument)
        self.sources.pop(argument, None)
        self.ignored.append(f'{self.used.pop(argument)} = {value:g} ({reason})')


def plain_number(value):
    """
    Read a number from a card, which may be text with a comment in it.

    Parameters
    ----------
    value : object
        The value of the card.

    Returns
    -------
    number : float or None
        The number; `None` if it is none.
    """
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, str):
        value = value.partition('/')[0].strip().strip('\'"')
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def warn_ignored(cards):
    """
    Warn, once, of all header cards that are not sound.

    Parameters
    ----------
    cards : `HeaderCards`
        The cards.
    """
    if cards.ignored:
        warn(f'header cards ignored: {"; ".join(dict.fromkeys(cards.ignored))}')


def trim_section(header, shape):
    """
    Return the part of an image that its header says to be exposed to the sky.

    Parameters
    ----------
    header : mapping
        The header, with ``TRIMSEC`` or ``DATASEC`` in FITS order.

    shape : tuple of int
        The shape (ny, nx) of the image.

    Returns
    -------
    name : str or None
        The card.

    section : tuple of slice or None
        Rows and columns; `None` if there is no card, or it does not fit the
        image, or is all of it.
    """
    for name in ('TRIMSEC', 'DATASEC'):
        found = _SECTION.search(str(header.get(name, '')))
        if found is None:
            continue
        x1, x2, y1, y2 = (int(number) for number in found.groups())
        inside = 1 <= x1 <= x2 <= shape[1] and 1 <= y1 <= y2 <= shape[0]
        section = slice(y1 - 1, y2), slice(x1 - 1, x2)
        size = (y2 - y1 + 1) * (x2 - x1 + 1)
        if inside and size < shape[0] * shape[1]:
            return name, section
    return None, None
