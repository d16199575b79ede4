# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A chunk of a mosaic as a field of a run.
"""

import hashlib
import json
import pickle
from collections.abc import Mapping

import astropy.units as u
import numpy as np

from bliss_astro.exposures import ExposureSet
from bliss_astro.exposures._areas import mask_dark
from bliss_astro.exposures._mesh import SkyMesh
from bliss_astro.exposures._psf import PSFAccess
from bliss_astro.psf import PolynomialPSF, PSFModel
from bliss_astro.psf._kinds import kind_of

from ._fields import FieldRef
from ._sections import is_measured, is_zarr, read_section

# Options that are not of the image in each band.
_OF_CHUNK = 'box', 'shape', 'density', 'reference', 'prepared'
# Numbers of a fit of a PSF that go with it.
_OF_FIT = 'n_stars', 'fwhm_error', 'effective_area_error', 'width_scatter', 'findings'
# Places in pixels at which PSFs of one content have the same shapes.
_PLACES = (0.0, 1e3, 1e4), (0.0, 1e3, 1e4)
# Start of the name of what the files of a field do not hold, which is no path.
_PART = 'array://'


class MosaicField(FieldRef):
    """
    A chunk of a mosaic: a `FieldRef` with a box of pixels, of which it owns the middle.

    ``options["box"]`` is the box ``[[x0, x1], [y0, y1]]`` in pixels of the mosaic, and
    ``options["shape"]`` the shape of that.
    What JSON cannot hold, arrays and objects, is named by its content in ``files`` and
    ``options``, and travels along as ``parts``.
    """

    parts = {}  # noqa: RUF012 (an attribute of each, which is not compared)

    @classmethod
    def of(cls, *args, parts=None, **kwargs):
        """Make one; arguments are those of `FieldRef`, and its parts by name."""
        field = cls(*args, survey='mosaic', **kwargs)
        object.__setattr__(field, 'parts', parts or {})
        return field

    def with_options(self, parts, **options):
        """The same with more options and parts; what a band has already it keeps."""
        names = ('id', 'files', 'footprint', 'owned', 'group')
        own = {name: getattr(self, name) for name in names}
        for key in options.keys() & self.options.keys():
            old, new = self.options[key], options[key]
            if isinstance(old, Mapping) and isinstance(new, Mapping):
                known = {band: v for band, v in old.items() if not is_measured(v)}
                options[key] = {**new, **known}
        options = {**self.options, **options}
        return self.of(**own, options=options, parts=self.parts | parts)

    @property
    def cut(self):
        """Slices of rows and columns of the mosaic."""
        (x0, x1), (y0, y1) = self.options['box']
        return slice(y0, y1), slice(x0, x1)

    @property
    def owned_cut(self):
        """Slices of rows and columns of the mosaic that the chunk owns."""
        pairs = zip(self.owned[::-1], self.cut, strict=True)
        return tuple(slice(a + cut.start, b + cut.start) for (a, b), cut in pairs)

    def open(self):
        """
        Read the chunk; see `FieldRef.open`.
        """
        exposures = {band: self.read(band, self.cut) for band in self.files}
        if len(exposures) == 1:
            return next(iter(exposures.values()))
        return ExposureSet(exposures, reference=self.options.get('reference'))

    def given(self, band):
        """Arguments of `Exposure.read` in a band, and what was found before."""
        options = {k: v for k, v in self.options.items() if k not in _OF_CHUNK}
        own = {
            name: self._part(v.get(band) if isinstance(v, Mapping) else v)
            for name, v in options.items()
        }
        return {'band': band or None} | own

    def read(self, band, cut, **changes):
        """Read pixels of one band, with arguments that differ from those of a chunk."""
        own = self.given(band) | changes
        sources = own.pop('sources', None)
        has_dark = own.pop('mask_dark', None)
        state = own.pop('psf_state', None)
        if state is not None:
            known = {name: v for name, v in own.items() if v is not None}
            own = psf_of_state(json.loads(state)) | known
        if isinstance(own.get('background'), SkyMesh):
            own['background'] = own['background'].at(cut)
        if sources is not None:
            own['meta'] = dict(own.get('meta') or {}) | {'part_of': self.group}
            own['estimated'] = json.loads(sources)
        exposure = read_section(self._part(self.files[band]), cut, **own)
        return mask_dark(exposure) if has_dark else exposure

    def detection(self):
        """
        Options of `~bliss_astro.detection.detect_sources` for this field alone.
        """
        found = self.options.get('density')
        if found is None:
            return {}
        from bliss_astro.detection._infer import DENSITY_CELL, stretch_density
        from bliss_astro.detection._tiles import TileDensity

        cells = self._part(found['cells'])
        every = [n * DENSITY_CELL for n in cells.shape]
        density = stretch_density(cells, DENSITY_CELL, every)
        pairs = zip(found['margins'], found['tiles'], strict=True)
        cut = tuple(slice(first, first + n) for first, n in pairs)
        return {'density': TileDensity(density[cut])}

    def paths(self):
        """
        Files of the field; see `FieldRef.paths`.
        """
        return [path for path in super().paths() if not path.startswith(_PART)]

    def _part(self, value):
        is_part = isinstance(value, str) and value.startswith(_PART)
        return self.parts[value] if is_part else value


def put_part(value, parts):
    """Name of a value by its content, under which it is put into parts."""
    name = _PART + hashlib.sha256(_content(value)).hexdigest()[:32]
    parts[name] = value
    return name


def _content(value):
    """Bytes that are the same for the same value in any process, as pickles are not."""
    if hasattr(value, 'dask'):
        return value.name.encode()
    if is_zarr(value):
        return f'{value.store_path}'.encode()
    if hasattr(value, 'to_header'):
        return value.to_header(relax=True).tostring().encode()
    if isinstance(value, SkyMesh):
        facts = value.frame, value.bounds, value.first
        return str(facts).encode() + value.values.tobytes()
    if isinstance(value, np.ndarray | u.Quantity):
        kind = value.dtype, value.shape, getattr(value, 'unit', None)
        return str(kind).encode() + np.ascontiguousarray(value).tobytes()
    if kind_of(value) is not None or isinstance(value, PSFModel):
        return PSFAccess(value).shapes(*_PLACES).tobytes()
    return pickle.dumps(value)


def state_of_psf(psf, error):
    """A measured PSF with its relative error as a dict of numbers and texts."""
    central, info = getattr(psf, 'psf', psf), psf.fit_info
    info = {name: info[name] for name in _OF_FIT if name in info}
    state = {'shape': list(map(float, central.shape_vector)), 'info': info}
    state |= {'radius': float(central.normalization_radius), 'error': float(error)}
    if central is not psf:
        state |= {'coefficients': psf.coefficients.tolist(), 'image': psf.shape}
    return state


def psf_of_state(state):
    """Arguments of `Exposure` of such a dict."""
    radius = state['radius']
    psf = PSFModel.from_shape(state['shape'], normalization_radius=radius)
    if 'coefficients' in state:
        psf = PolynomialPSF(psf, *state['coefficients'], state['image'])
    psf.fit_info = state['info']
    return {'psf': psf, 'psf_error': state['error']}
