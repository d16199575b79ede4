# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Small files in the true formats of SDSS, with known contents.

Loaded by the ``conftest.py`` of the folders that use it.
"""

import dataclasses
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from bliss_astro.units import SDSS_PIXEL_SCALE

NY, NX = 60, 80
GAIN = np.array([1.62, 3.32, 4.71, 5.165, 4.745])
DARK_VARIANCE = np.array([9.61, 15.6025, 1.8225, 7.84, 0.81])
NMGY = 0.005
SKY = 150.0
SHAPE = {
    'psf_width': 1.2,
    'psf_sigma1': 1.1,
    'psf_sigma2': 2.6,
    'psf_b': 0.08,
    'psf_p0': 0.01,
    'psf_beta': 3.2,
    'psf_sigmap': 2.9,
}
PLANES = (
    'INTERP',
    'SATUR',
    'NOTCHECKED',
    'OBJECT',
    'BRIGHTOBJECT',
    'BINOBJECT',
    'CATOBJECT',
    'SUBTRACTED',
    'GHOST',
    'CR',
)


def gaussian(sigma=1.3, size=51):
    """
    Draw a normalised round Gaussian.
    """
    y, x = np.mgrid[:size, :size] - size // 2
    image = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return image / image.sum()


@dataclasses.dataclass
class Field:
    """
    Writer of the files of one small SDSS field into a folder.
    """

    folder: Path
    run: int = 94
    camcol: int = 1
    field: int = 12
    band: str = 'r'
    stars: tuple = ((30.0, 20.0, 40.0), (55.0, 41.0, 25.0))  # x, y, nmgy

    def __post_init__(self):
        rng = np.random.default_rng(5)
        self.calibration = NMGY * (1 + 0.02 * np.sin(np.arange(NX) / 9))
        self.sky_grid = SKY + 0.1 * np.arange(12)[:, None] + 0.05 * np.arange(10)
        self.sky_x = np.linspace(-0.4, 9.4, NX)
        self.sky_y = np.linspace(0.5, 9.5, NY)
        y, x = np.mgrid[:NY, :NX]
        self.signal = np.zeros((NY, NX))
        for x0, y0, flux in self.stars:
            r2 = (x - x0) ** 2 + (y - y0) ** 2
            self.signal += flux * np.exp(-r2 / (2 * 1.3**2)) / (2 * np.pi * 1.3**2)
        gain, dark = GAIN[self.index], DARK_VARIANCE[self.index]
        counts = self.sky() + self.signal / self.calibration
        electrons = rng.poisson(counts * gain) + rng.normal(size=counts.shape) * (
            gain * np.sqrt(dark)
        )
        self.counts = electrons / gain

    @property
    def index(self):
        """The band's place in arrays of five."""
        return 'ugriz'.index(self.band)

    def sky(self):
        """Interpolate the sky by brute force."""
        columns = np.clip(self.sky_x, 0, 9)
        rows = np.clip(self.sky_y, 0, 11)
        return SKY + 0.1 * rows[:, None] + 0.05 * columns

    def header(self):
        """Make the keywords that both kinds of image have."""
        header = fits.Header()
        lag = {'r': 0, 'i': 2, 'u': 4, 'z': 6, 'g': 8}[self.band]
        values = {
            'RUN': self.run,
            'FRAME': self.field + lag,
            'CAMCOL': self.camcol,
            'FILTER': self.band,
            'DATE-OBS': '1998-09-19',
            'EXPTIME': '53.907456',
            'SOFTBIAS': 1000,
            'RADECSYS': 'ICRS',
            'CTYPE1': 'RA---TAN',
            'CTYPE2': 'DEC--TAN',
            'CUNIT1': 'deg',
            'CUNIT2': 'deg',
            'CRPIX1': 41.0,
            'CRPIX2': 31.0,
            'CRVAL1': 336.5,
            'CRVAL2': -0.9,
            'CD1_1': 1e-9,
            'CD1_2': 0.00011,
            'CD2_1': 0.00011,
            'CD2_2': 1e-9,
        }
        for key, value in values.items():
            header[key] = value
        return header

    def write(self, hdus, name):
        """Write HDUs under a name; return its path."""
        path = self.folder / name
        fits.HDUList(hdus).writeto(path, overwrite=True)
        return path

    def frame_hdus(self):
        """Make the HDUs of a frame."""
        data = (self.counts - self.sky()) * self.calibration
        header = self.header()
        header['BUNIT'] = 'nanomaggy'
        header['NMGY'] = NMGY
        n = self.sky_grid.size
        sky = fits.BinTableHDU.from_columns(
            [
                fits.Column(
                    'ALLSKY', f'{n}E', dim='(10, 12)', array=self.sky_grid[None]
                ),
                fits.Column('XINTERP', f'{NX}E', array=self.sky_x[None]),
                fits.Column('YINTERP', f'{NY}E', array=self.sky_y[None]),
            ]
        )
        return [
            fits.PrimaryHDU(data.astype('f4'), header),
            fits.ImageHDU(self.calibration.astype('f4')),
            sky,
            fits.BinTableHDU(Table({'run': [self.run]})),
        ]

    def frame(self, suffix=''):
        """Write the frame."""
        name = f'frame-{self.band}-{self.run:06d}-{self.camcol}-{self.field:04d}.fits'
        return self.write(self.frame_hdus(), name + suffix)

    def fpc(self, **header):
        """Write the corrected frame."""
        counts = np.clip(np.round(self.counts + 1000), 0, 65535).astype(np.uint16)
        full = self.header()
        full['BUNIT'] = 'DNs'
        full['SKY'] = SKY
        full['FLUX20'] = 10 / NMGY
        for key, value in header.items():
            full[key] = value
        name = f'fpC-{self.run:06d}-{self.band}{self.camcol}-{self.field:04d}.fit.gz'
        return self.write([fits.PrimaryHDU(counts, full)], name)

    def tsfield(self):
        """Write the calibration, such that one count is NMGY."""
        kk, airmass = np.full(5, 0.1), np.full(5, 1.2)
        exposure_time = 2048 * 26322e-6
        aa = 2.5 * np.log10(NMGY * exposure_time / 1e9) - kk * airmass
        table = Table(
            {
                'field': np.array([self.field], dtype='i4'),
                'aa': aa[None],
                'kk': kk[None],
                'airmass': airmass[None],
                'gain': GAIN[None].astype('f4'),
                'dark_variance': DARK_VARIANCE[None].astype('f4'),
                'sky': np.full(
                    (1, 5), SKY * NMGY * 1e-9 / SDSS_PIXEL_SCALE**2, dtype='f4'
                ),
                'saturation_level': np.full((1, 5), 50000, dtype='i4'),
                'psf_width': np.full((1, 5), 1.2, dtype='f4'),
            }
        )
        primary = fits.PrimaryHDU()
        for key, value in (
            ('RUN', self.run),
            ('CAMCOL', self.camcol),
            ('C_OBS', 26322.0),
        ):
            primary.header[key] = value
        name = f'tsField-{self.run:06d}-{self.camcol}-40-{self.field:04d}.fit'
        return self.write([primary, fits.BinTableHDU(table)], name)

    def psfield(self, *, sigma=1.3, dark_bands=(), **values):
        """Write the PSF: a Gaussian, with a broader one added along x."""
        primary = fits.PrimaryHDU()
        for key in ('run', 'camcol', 'field'):
            primary.header[key.upper()] = getattr(self, key)
        images = np.stack([gaussian(sigma), gaussian(2 * sigma)]).astype('f4')
        c = np.zeros((2, 5, 5), dtype='f4')
        c[0, 0, 0], c[1, 0, 1] = 1.0, 0.2

        def table_of(images):
            rows = np.array([image.ravel() for image in images], dtype=object)
            return fits.BinTableHDU.from_columns(
                [*basis, fits.Column('RROWS', 'PE()', array=rows)]
            )

        basis = [
            fits.Column('nrow_b', '1J', array=np.array([1, 2])),
            fits.Column('ncol_b', '1J', array=np.array([1, 3])),
            fits.Column('c', '25E', dim='(5,5)', array=c),
            fits.Column('lambda', '1E', array=np.ones(2)),
            fits.Column('RNROW', '1J', array=np.array([51, 51])),
            fits.Column('RNCOL', '1J', array=np.array([51, 51])),
        ]
        numbers = {
            'sky': SKY,
            'gain': GAIN,
            'dark_variance': DARK_VARIANCE,
            'status': np.zeros(5, dtype='i4'),
            **SHAPE,
            **values,
        }
        table = Table({'field': np.array([self.field], dtype='i4')})
        table['psp_status'] = np.array([0], dtype='i4')
        for key, value in numbers.items():
            dtype = 'i4' if key == 'status' else 'f4'
            table[key] = np.broadcast_to(value, (1, 5)).astype(dtype)
        hdus = [
            table_of(images * 0 if band in dark_bands else images) for band in 'ugriz'
        ]
        name = f'psField-{self.run:06d}-{self.camcol}-{self.field:04d}.fit'
        return self.write([primary, *hdus, fits.BinTableHDU(table)], name)

    def photofield(self, n=3):
        """Write n fields, from this one on."""

        def five(value, dtype='f4'):
            return np.broadcast_to(value, (n, 5)).astype(dtype)

        table = Table(
            {
                'RUN': np.full(n, self.run, dtype='i4'),
                'CAMCOL': np.full(n, self.camcol, dtype='i4'),
                'FIELD': self.field + np.arange(n, dtype='i4'),
                'SKY': five(SKY * NMGY / SDSS_PIXEL_SCALE**2),
                'PIXSCALE': five(SDSS_PIXEL_SCALE),
                'NMGYPERCOUNT': five(NMGY),
                'GAIN': five(GAIN),
                'DARK_VARIANCE': five(DARK_VARIANCE),
                'SATURATION_LEVEL': five(50000, 'i4'),
                'AIRMASS': five(1.2),
                **{key.upper(): five(value) for key, value in SHAPE.items()},
            }
        )
        name = f'photoField-{self.run:06d}-{self.camcol}.fits'
        return self.write([fits.PrimaryHDU(), fits.BinTableHDU(table)], name)

    def photoobj(self, *, empty=False):
        """Write the catalogue of the stars, or the file of an empty field."""
        primary = fits.PrimaryHDU()
        primary.header['POBJ_VER'] = 'v1_10_20'
        for key in ('run', 'camcol', 'field'):
            primary.header[key.upper()] = getattr(self, key)
        x, y, flux = np.array(self.stars).T
        table = Table(
            {
                'OBJID': np.array(['1' * 19, '2' * 19]),
                'OBJC_TYPE': np.array([6, 6], dtype='i4'),
                'RA': np.zeros(2),
                'DEC': np.zeros(2),
                'ROWC': np.tile((y + 0.5)[:, None], (1, 5)).astype('f4'),
                'COLC': np.tile((x + 0.5)[:, None], (1, 5)).astype('f4'),
                'PSFFLUX': np.tile(flux[:, None], (1, 5)).astype('f4'),
            }
        )
        second = fits.ImageHDU() if empty else fits.BinTableHDU(table)
        name = f'photoObj-{self.run:06d}-{self.camcol}-{self.field:04d}.fits'
        return self.write([primary, second], name)

    def fpm(self, **objects):
        """
        Write masks.

        Each argument is a plane and the list of its objects: (row0, col0,
        spans), a span being row, first and last column.
        """
        primary = fits.PrimaryHDU()
        for key, value in (
            ('MASKROWS', NY),
            ('MASKCOLS', NX),
            ('RUN', self.run),
            ('CAMCOL', self.camcol),
            ('FIELD', self.field),
        ):
            primary.header[key] = value
        hdus = [primary]
        for plane in PLANES:
            rows = objects.get(plane, [])
            packed = np.empty(len(rows), dtype=object)
            for i, (_, _, spans) in enumerate(rows):
                packed[i] = np.frombuffer(np.array(spans, '>i2').tobytes(), 'u1')
            columns = [
                fits.Column('nspan', 'J', array=[len(row[2]) for row in rows]),
                fits.Column('row0', 'J', array=[row[0] for row in rows]),
                fits.Column('col0', 'J', array=[row[1] for row in rows]),
                fits.Column('s', 'PB()', array=packed),
            ]
            hdus.append(fits.BinTableHDU.from_columns(columns, nrows=len(rows)))
        names = [f'S_MASK_{plane}' for plane in PLANES] + ['S_NMASK_TYPES']
        table = Table(
            {
                'defName': ['S_MASKTYPE'] * 11,
                'attributeName': names,
                'Value': np.arange(11, dtype='i4'),
            }
        )
        hdus.append(fits.BinTableHDU(table))
        name = f'fpM-{self.run:06d}-{self.band}{self.camcol}-{self.field:04d}.fit'
        return self.write(hdus, name)
