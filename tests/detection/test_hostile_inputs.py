# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Random images as nobody should hand them over, from seeds.

Each is measured right, or flagged and warned of, or refused with an error of ours
that names the parameter. What the stars are is known, as they were put in.
"""

import os
import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits.hdu.image import DTYPE2BITPIX
from astropy.modeling.models import Gaussian2D, Moffat2D
from astropy.nddata import CCDData, Cutout2D, NDData, StdDevUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.masked import Masked
from astropy.wcs import WCS

from bliss_astro import Exposure, PSFModel, detect_sources

N_CASES, N_DEFAULT, N_TOGETHER = 300, 20, 20
SKY, NOISE, GAIN = 100.0, 5.0, 4.0
# One of these stands in every message.
PARAMETERS = (
    'data', 'psf', 'fwhm', 'background', 'bkg_error', 'weight', 'effective_gain',
    'mask', 'wcs', 'unit', 'saturation', 'zero_point', 'path', 'uncertainty',
)  # fmt: skip
HSC = u.def_unit('hscflux', 57.54 * u.nJy)


class Case:
    """
    An image with one or two stars, what is said of it, and what is hostile in it.
    """

    def __init__(self, seed, folder):
        self.rng = np.random.default_rng([20261128, seed])
        self.seed, self.folder, self.words = seed, folder, []
        self.given = {}
        self._draw_sky()
        self._draw_holes()
        self._draw_type()
        self._draw_psf()
        self._draw_known()
        self._draw_wcs()
        self._draw_container()

    def pick(self, what, choices, weights=None):
        """
        Choose one of some things and remember which.
        """
        names = list(choices)
        p = None if weights is None else np.array(weights) / np.sum(weights)
        name = names[self.rng.choice(len(names), p=p)]
        self.words.append(f'{what}: {name}')
        return choices[name] if isinstance(choices, dict) else name

    def _draw_sky(self):
        sides = self.pick('size', ['usual', 'long', 'tiny'], [8, 1, 1])
        low, high = {'usual': (32, 64), 'long': (20, 64), 'tiny': (1, 12)}[sides]
        self.shape = tuple(int(n) for n in self.rng.integers(low, high + 1, 2))
        ny, nx = self.shape
        self.image = self.rng.normal(SKY, NOISE, self.shape)
        self.stars = []
        for x in (0.3 * nx, 0.7 * nx):
            if min(self.shape) < 20:
                break
            y, flux = self.rng.uniform(10, ny - 10), self.rng.uniform(1000, 8000)
            yy, xx = np.mgrid[:ny, :nx]
            light = PSFModel(flux=flux, x_0=x, y_0=y)(xx, yy)
            self.image += light + self.rng.normal(size=self.shape) * np.sqrt(
                np.maximum(light, 0) / GAIN
            )
            self.stars.append((x, y, flux))

    def _draw_holes(self):
        kind = self.pick(
            'holes',
            ['none', 'border', 'columns', 'scattered', 'half', 'island', 'all',
             'inf', 'zeros', 'huge'],
            [8, 2, 2, 2, 1, 1, 0.5, 1, 2, 1],
        )  # fmt: skip
        ny, nx = self.shape
        holes = np.zeros(self.shape, bool)
        if kind == 'border':
            holes[: ny // 6], holes[:, : nx // 8] = True, True
        elif kind == 'columns':
            holes[:, self.rng.integers(0, nx, 3)] = True
        elif kind == 'scattered':
            holes = self.rng.random(self.shape) < 0.1
        elif kind in ('half', 'zeros'):
            holes[:, : nx // 2 if kind == 'half' else nx // 5] = True
        elif kind in ('island', 'all'):
            holes[...] = True
            holes[2:7, 2:7] = kind == 'all'
        elif kind in ('inf', 'huge'):
            holes.flat[self.rng.integers(0, holes.size, 3)] = True
        value = {'inf': -np.inf, 'zeros': 0.0, 'huge': 1e25}.get(kind, np.nan)
        self.image[holes] = value
        self.holes = holes

    def _draw_type(self):
        self.scale = 1.0
        kinds = ['<f8', '<f4', '>f4', 'f2', '<i2', '>i4', 'u2', 'scaled', 'object',
                 'complex', 'bool', 'longdouble']  # fmt: skip
        kind = self.pick('type', kinds, [6, 6, 3, 1, 2, 1, 2, 6, 0.5, 0.5, 0.5, 1])
        if kind == 'scaled':
            self.scale = 10.0 ** self.rng.uniform(-30, 30)
            self.image = self.image * self.scale
        elif kind[-2] in 'iu' and not kind.startswith('>f'):
            sound = np.nan_to_num(self.image, nan=0, posinf=0, neginf=0).clip(0, 3e4)
            self.image = np.rint(sound).astype(kind)
        else:
            with np.errstate(over='ignore', invalid='ignore'):
                self.image = self.image.astype(kind)

    def _draw_psf(self):
        yy, xx = np.mgrid[-10:11, -10:11]
        width = float(PSFModel().fwhm)
        choices = {
            'model': {'psf': PSFModel()},
            'image': {'psf': PSFModel()(xx, yy)},
            'even image': {'psf': PSFModel(x_0=-0.5, y_0=-0.5)(xx, yy)[:20, :20]},
            'Gaussian': {'psf': Gaussian2D(1, 0, 0, width / 2.355, width / 2.355)},
            'Moffat': {'psf': Moffat2D(1, 0, 0, width / 1.2, 2.5)},
            'fwhm': {'fwhm': width},
            'angle': {'fwhm': 1.2 * u.arcsec},
            'none': {},
            'zeros': {'psf': np.zeros((9, 9))},
            'NaN': {'psf': np.full((9, 9), np.nan)},
            'text': {'psf': 'no such file'},
            'both': {'psf': PSFModel(), 'fwhm': 3.0},
            'negative': {'fwhm': -3.0},
        }
        weights = [8, 2, 1, 2, 2, 2, 1, 3, 0.5, 0.5, 0.5, 0.5, 0.5]
        self.given |= self.pick('psf', choices, weights)

    def _draw_known(self):
        ny, nx = self.shape
        s = self.scale
        rms = np.full(self.shape, NOISE * s)
        broken = rms.copy()
        broken[ny // 2, nx // 2] = -1.0
        choices = {
            'nothing': {},
            'all': {
                'background': SKY * s,
                'bkg_error': NOISE * s,
                'effective_gain': GAIN / s,
            },
            'maps': {'background': SKY * s + 0 * rms, 'bkg_error': rms},
            'masked maps': {'bkg_error': np.ma.masked_greater(rms, 2 * NOISE * s)},
            'weight': {'weight': 3 / rms**2, 'background': SKY * s},
            'relative weight': {'weight': 1 + 0 * rms},
            'zero noise': {'bkg_error': 0.0},
            'broken map': {'bkg_error': broken},
            'other shape': {'background': np.ones((ny + 1, nx))},
            'text': {'effective_gain': 'high'},
            'no gain': {'effective_gain': -2.0},
            'wrong unit': {'background': 3 * u.s},
            'both': {'weight': rms, 'bkg_error': 1.0},
            'sky is gone': {'background': 0.0},
        }  # fmt: skip
        weights = [8, 4, 2, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
        self.given |= self.pick('known', choices, weights)
        mask = np.zeros(self.shape, bool)
        mask[: max(1, ny // 8)] = True
        choices = {
            'none': None, 'bool': mask, 'numbers': mask.astype('u1'),
            'list': mask.tolist(), 'masked': np.ma.array(mask, mask=mask),
            'everything': np.ones(self.shape, bool),
            'other shape': mask[:, 1:], 'floats': mask.astype(float), 'bits': 8 * mask,
        }  # fmt: skip
        self.mask = self.pick('mask', choices, [8, 3, 1, 1, 1, 0.3, 0.5, 0.5, 0.5])
        if self.mask is not None:
            self.given['mask'] = self.mask

    def _draw_wcs(self):
        kind = self.pick(
            'wcs',
            ['none', 'TAN', 'LINEAR', 'singular', 'NaN', 'text', 'cube'],
            [6, 3, 1, 1, 1, 0.5, 0.5],
        )
        if kind in ('none', 'text'):
            self.wcs = None if kind == 'none' else 'RA---TAN'
            return
        wcs = WCS(naxis=3 if kind == 'cube' else 2)
        if kind != 'cube':
            plain = kind == 'LINEAR'
            wcs.wcs.ctype = ('LINEAR',) * 2 if plain else ('RA---TAN', 'DEC--TAN')
            wcs.wcs.crval = (np.nan if kind == 'NaN' else 30.0, 10.0)
            wcs.wcs.cdelt = (0, 0) if kind == 'singular' else (-1e-4, 1e-4)
        self.wcs = wcs

    def _draw_container(self):
        units = {
            'adu': u.adu, 'electron': u.electron, 'nmgy': u.nmgy, 'own': HSC,
            'mag': u.mag, 'Jy/beam': u.Jy / u.beam,
        }  # fmt: skip
        kinds = ['array', 'list', 'numpy masked', 'Masked', 'Quantity', 'NDData',
                 'CCDData', 'Cutout2D', 'HDU', 'file', 'cube', 'Exposure']  # fmt: skip
        kind = self.pick('container', kinds, [6, 1, 2, 2, 3, 2, 3, 1, 2, 3, 1, 1])
        self.data = self.image
        if self.wcs is not None and kind not in (
            'CCDData',
            'NDData',
            'Cutout2D',
            'HDU',
            'file',
        ):
            self.given['wcs'] = self.wcs
        if kind == 'list':
            self.data = self.image.tolist()
        elif kind in ('numpy masked', 'Masked'):
            make = np.ma.array if kind[0] == 'n' else Masked
            self.data = make(self.image, mask=self.holes)
        elif kind == 'Quantity':
            unit = self.pick('unit', units)
            self.data = u.Quantity(self.image, unit, subok=True)
            self._give_units(unit)
        elif kind in ('NDData', 'CCDData'):
            self._make_nddata(kind, units)
        elif kind == 'Cutout2D':
            wcs = (
                self.wcs if isinstance(self.wcs, WCS) and self.wcs.naxis == 2 else None
            )
            self.data = Cutout2D(
                self.image, [(n - 1) / 2 for n in self.shape[::-1]], self.shape, wcs=wcs
            )
        elif kind in ('HDU', 'file'):
            self._make_hdu(kind)
        elif kind == 'cube':
            self.data = self.image[None]
        elif kind == 'Exposure':
            known = {
                'bkg_error': NOISE * self.scale,
                'effective_gain': GAIN / self.scale,
            }
            self.data = lambda: Exposure(
                self.image, background=SKY * self.scale, **(known | self.given)
            )

    def _give_units(self, unit):
        for name in ('background', 'bkg_error'):
            if name in self.given and not isinstance(self.given[name], u.Quantity):
                self.given[name] = self.given[name] * unit
        if 'weight' in self.given:
            self.given['weight'] = self.given['weight'] * unit**-2

    def _make_nddata(self, kind, units):
        meta = self.pick(
            'cards',
            {
                'none': {}, 'gain': {'GAIN': GAIN / self.scale},
                'zero': {'SATURATE': 0.0},
                'text': {'GAIN': 'unknown', 'RDNOISE': ''}, 'low': {'SATURATE': 5.0},
                'minus': {'RDNOISE': -1, 'EGAIN': -1.0},
            },
        )  # fmt: skip
        unit = self.pick('unit', units) if kind == 'CCDData' else None
        error = None
        if self.rng.random() < 0.3:
            error = StdDevUncertainty(np.full(self.shape, NOISE * self.scale))
            self.words.append('uncertainty')
        make = CCDData if kind == 'CCDData' else NDData
        wcs = self.wcs

        def nddata():
            own = {} if isinstance(wcs, str) else {'wcs': wcs}
            return make(self.image, unit=unit, meta=meta, uncertainty=error, **own)

        self.data = nddata
        if unit is not None:
            self._give_units(unit)

    def _make_hdu(self, kind):
        header = fits.Header()
        if isinstance(self.wcs, WCS):
            try:
                header = self.wcs.to_header()
            except Exception:  # noqa: BLE001 - what wcslib itself cannot write
                self.words.append('no header')
        for card, value in self.pick(
            'header',
            {
                'none': {}, 'unit': {'BUNIT': 'ADU'}, 'odd unit': {'BUNIT': 'parsnip'},
                'cards': {'GAIN': 'n/a', 'SATURATE': -1, 'EXPTIME': 0.0},
                'electrons': {'BUNIT': 'E-/S', 'EXPTIME': 30.0},
            },
        ).items():  # fmt: skip
            header[card] = value
        image = np.array(self.image)
        if image.dtype.name not in DTYPE2BITPIX:
            # FITS has no such numbers.
            image = np.real(image).astype(float)

        def hdu():
            made = fits.PrimaryHDU(image, header)
            if kind == 'HDU':
                return made
            path = self.folder / f'case{self.seed}.fits'
            made.writeto(path, overwrite=True)
            return path

        self.data = hdu

    def run(self, encoder):
        """
        Detect; return the catalogue or the error, and the warnings.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            try:
                data = self.data() if callable(self.data) else self.data
                given = self.given
                if isinstance(data, Exposure):
                    given = {}
                result = detect_sources(data, encoder=encoder, **given)
            except Exception as error:  # noqa: BLE001 - its type is what is checked
                result = error
        return result, caught


def judge(case, encoder):
    """
    Return what is wrong with the answer to a case, or `None`.
    """
    result, caught = case.run(encoder)
    foreign = [w for w in caught if not issubclass(w.category, AstropyUserWarning)]
    if foreign:
        return f'foreign warning {foreign[0].category.__name__}: {foreign[0].message}'
    if isinstance(result, Exception):
        if not isinstance(result, ValueError | TypeError | OSError):
            return f'{type(result).__name__}: {result}'
        named = any(name in str(result) for name in PARAMETERS)
        return None if named else f'names no parameter: {result}'
    for name in ('x_centroid', 'y_centroid', 'flux', 'flux_err', 'probability'):
        if not np.all(np.isfinite(np.asarray(result[name], float))):
            return f'{name} is not finite'
    lost = 'sky_centroid' in result.colnames and not np.all(
        np.isfinite(result['sky_centroid'].ra)
    )
    if lost and not any('wcs' in str(w.message) for w in caught):
        return 'sky positions are not finite, without a word'
    # A warning, other than that there is no source, has said what is wrong.
    if any('no source has' not in str(w.message) for w in caught):
        return None
    return missing_star(case, result)


def missing_star(case, catalog):
    """
    Return which star has no row of its flux and no flag, or `None`.
    """
    bad = case.holes | ~np.isfinite(np.asarray(case.image, dtype=float))
    if case.mask is not None and np.shape(case.mask) == case.shape:
        bad = bad | (np.asarray(case.mask) != 0)
    x, y = (np.asarray(catalog[f'{axis}_centroid'], float) for axis in 'xy')
    flux, error = (
        np.asarray(getattr(catalog[name], 'value', catalog[name]), float)
        for name in ('flux', 'flux_err')
    )
    for x_0, y_0, true in case.stars:
        rows, columns = (slice(max(0, round(v) - 6), round(v) + 7) for v in (y_0, x_0))
        if bad[rows, columns].any():
            continue
        near = np.hypot(x - x_0, y - y_0) < 1.0
        if not near.any():
            return f'the star at {x_0:.1f}, {y_0:.1f} has no row'
        k = np.flatnonzero(near)[0]
        off = abs(flux[k] / case.scale - true)
        if off > 0.15 * true + 5 * error[k] / case.scale and not catalog['flags'][k]:
            return f'flux {flux[k] / case.scale:.0f} of {true:.0f}'
    return None


def blocks(first, last):
    return [range(k, min(k + N_TOGETHER, last)) for k in range(first, last, N_TOGETHER)]


SLOW = (
    pytest.mark.slow,
    pytest.mark.skipif(
        'BLISS_ASTRO_RUN_SLOW' not in os.environ,
        reason='takes minutes; set BLISS_ASTRO_RUN_SLOW to run it',
    ),
)


@pytest.mark.parametrize(
    'seeds',
    [
        *blocks(0, N_DEFAULT),
        *(pytest.param(b, marks=SLOW) for b in blocks(N_DEFAULT, N_CASES)),
    ],
    ids=lambda seeds: f'{seeds.start}-{seeds.stop - 1}',
)
def test_right_or_reported(seeds, encoder, tmp_path):
    wrong = {}
    for seed in seeds:
        case = Case(seed, tmp_path)
        reason = judge(case, encoder)
        if reason is not None:
            wrong[seed] = f'{reason} ({"; ".join(case.words)})'
    assert not wrong, '\n'.join(f'{seed}: {text}' for seed, text in wrong.items())
