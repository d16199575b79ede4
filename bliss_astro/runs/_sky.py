# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sky of a field: pixels to unit vectors and back by polynomials; regions of the sky.

Unit vectors have no meridian 0/360 and no poles. The polynomials, of third degree in
the plane that touches the sphere in the middle of the field, stand in the record of a
field, so that no file of it has to be opened, and fit any WCS that is smooth.
"""

import dataclasses

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from bliss_astro._arguments import must

# Places along an axis of an image at which a WCS is fitted, and degree of the fit.
_N_NODES, _DEGREE = 9, 3
# Farthest corner of a field from its middle, in degrees.
_MAX_RADIUS = 60.0
_POWERS = [
    (i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1) if i + j <= _DEGREE
]


def to_vectors(ra, dec):
    """Unit vectors ``(N, 3)`` of positions in degrees."""
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack(
        [np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], -1
    )


def to_degrees(vectors):
    """Right ascension in [0, 360) and declination of unit vectors."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    ra = np.degrees(np.arctan2(y, x)) % 360.0
    return np.where(ra >= 360.0, 0.0, ra), np.degrees(np.arctan2(z, np.hypot(x, y)))


def chord(angle):
    """Distance of unit vectors that are an angle (arcsec) apart."""
    return 2 * np.sin(np.radians(np.clip(angle, 0, 648000) / 3600) / 2)


def pixels_of(order, ra, dec):
    """Pixels of a nested HEALPix grid of an order at positions in degrees."""
    from astropy_healpix import lonlat_to_healpix

    return lonlat_to_healpix(ra * u.deg, dec * u.deg, 2**order, order='nested')


def axes_at(vectors):
    """East and north ``(2, ..., 3)`` at unit vectors; any two directions at a pole."""
    east = np.stack([-vectors[..., 1], vectors[..., 0], 0 * vectors[..., 0]], -1)
    size = np.linalg.norm(east, axis=-1, keepdims=True)
    east = np.where(size > 1e-12, east / np.maximum(size, 1e-12), [0.0, 1.0, 0.0])
    return np.stack([east, np.cross(vectors, east)])


def _powers(x, y):
    """Products of powers ``(10, N)``."""
    xs, ys = ([np.ones_like(v), v, v * v, v * v * v] for v in (x, y))
    return np.stack([xs[i] * ys[j] for i, j in _POWERS])


@dataclasses.dataclass
class FieldSky:
    """
    Pixels of a field on the sky.

    Parameters
    ----------
    shape : list of int
        Shape of the image ``(ny, nx)``.

    middle : array ``(3,)``
        Unit vector of the middle of the image.

    radius : float
        Distance of the farthest corner from there in arcsec.

    scale : float
        Arcsec per pixel.

    width : float
        Unit of the touching plane.

    to_plane, to_pixel : array ``(10, 2)``
        Coefficients of the polynomials.
    """

    shape: list
    middle: np.ndarray
    radius: float
    scale: float
    width: float
    to_plane: np.ndarray
    to_pixel: np.ndarray

    def __post_init__(self):
        for name in ('middle', 'to_plane', 'to_pixel'):
            setattr(self, name, np.asarray(getattr(self, name)))
        # Directions of the plane, and the middle.
        self.frame = np.vstack([axes_at(self.middle), self.middle])

    def to_dict(self):
        """Plain values, of which the constructor makes the same."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: np.asarray(getattr(self, name)).tolist() for name in names}

    @classmethod
    def of(cls, wcs, shape):
        """Fit a celestial WCS; `None` for none, or one that is not smooth."""
        if wcs is None:
            return None
        size = np.array(shape[::-1], float)
        nodes = np.linspace(-0.5, 0.5, _N_NODES)
        nodes = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
        sky = wcs.pixel_to_world(*(nodes * size + 0.5 * (size - 1)).T).icrs
        vectors = to_vectors(sky.ra.deg, sky.dec.deg)
        middle = vectors.mean(0)
        middle /= np.linalg.norm(middle)
        near = vectors @ middle
        if not np.all(near > np.cos(np.radians(_MAX_RADIUS))):
            return None  # NaN too
        plane = vectors @ axes_at(middle).T / near[:, None]
        width = float(np.abs(plane).max())
        plane /= width
        powers = _powers(*2 * nodes.T).T, _powers(*plane.T).T
        to_plane = np.linalg.lstsq(powers[0], plane, rcond=None)[0]
        to_pixel = np.linalg.lstsq(powers[1], 2 * nodes, rcond=None)[0]
        off = (powers[1] @ to_pixel - 2 * nodes) * size / 2
        if np.abs(off).max() > 0.5:
            return None
        area = abs(
            np.linalg.det(to_plane[[_POWERS.index((1, 0)), _POWERS.index((0, 1))]])
        )
        scale = np.degrees(width * np.sqrt(area * 4 / np.prod(size))) * 3600
        radius = np.degrees(np.arccos(near.min())) * 3600
        plain = middle, float(radius), float(scale), width
        return cls([int(n) for n in shape], *plain, to_plane, to_pixel)

    def vectors(self, x, y):
        """Unit vectors of pixels."""
        ny, nx = self.shape
        powers = _powers((2 * x + 1) / nx - 1, (2 * y + 1) / ny - 1)
        plane = self.width * self.to_plane.T @ powers
        made = self.middle + plane.T @ self.frame[:2]
        return made / np.linalg.norm(made, axis=-1, keepdims=True)

    def pixels(self, vectors):
        """Columns and rows of unit vectors; NaN for those that are far."""
        *plane, near = self.frame @ vectors.T
        far = near < np.cos(np.radians(self.radius / 3600 * 1.1 + 1e-3))
        near = np.where(far, np.nan, near * self.width)
        pixel = self.to_pixel.T @ _powers(*plane / near)
        return 0.5 * ((pixel + 1) * np.array(self.shape[::-1])[:, None] - 1)


# -- regions ---------------------------------------------------------------------------


@dataclasses.dataclass
class Region:
    """Region of the sky: test of unit vectors, and a circle around it, if any."""

    test: object
    middle: np.ndarray | None = None
    radius: float = np.inf
    # Whether unit vectors are so many arcsec from it, where the circle is too wide.
    near: object = None

    def contains(self, vectors):
        """Whether unit vectors ``(N, 3)`` lie inside, bool array ``(N,)``."""
        return np.asarray(self.test(vectors), bool)

    def around(self, margin):
        """The circle, wider by a margin in arcsec, as a region."""
        if self.middle is None:
            return self
        near = self.near and (lambda vectors, reach: self.near(vectors, reach + margin))
        wide = _cone(self.middle, self.radius + margin)
        return dataclasses.replace(wide, near=near)

    def may_touch(self, middles, radii):
        """Whether circles ``(N, 3)``, ``(N,)`` (arcsec) may have points inside."""
        if self.middle is None:
            return np.ones(len(middles), bool)
        reach = chord(self.radius + radii + 1)
        touching = np.linalg.norm(middles - self.middle, axis=-1) <= reach
        if self.near:
            touching[touching] = self.near(middles[touching], radii[touching])
        return touching

    @classmethod
    def of(cls, region):
        """
        Region of what a user may give.

        `None` (all of the sky), a pair of centre and radius (a cone), a
        `~astropy.coordinates.SkyCoord` of at least three corners (a polygon), a region
        of the sky of ``regions``, or a MOC of ``mocpy``.
        """
        if region is None or isinstance(region, cls):
            return region or cls(lambda vectors: np.ones(len(vectors), bool))
        if isinstance(region, SkyCoord) and region.size > 2:
            return _polygon(region)
        if hasattr(region, 'contains_lonlat'):
            return _moc(region)
        if hasattr(region, 'contains') and hasattr(region, 'to_pixel'):
            return _sky_region(region)
        try:
            centre, radius = region
            radius = u.Quantity(radius).to_value(u.arcsec)
            [middle] = to_vectors(*np.reshape([_ra_dec(centre)], (1, 2)).T)
        except (TypeError, ValueError, u.UnitsError):
            allowed = (
                'be (centre, radius), a SkyCoord of three or more corners, a region of '
                'the sky (package regions), a MOC or None'
            )
            raise TypeError(must('region', allowed, f'{region!r:.80}')) from None
        if not 0 < radius <= 648000:
            raise ValueError(must('radius', 'lie between 0 and 180 degrees', radius))
        return _cone(middle, float(radius))


def _cone(middle, radius):
    reach = chord(radius)
    return Region(
        lambda vectors: np.linalg.norm(vectors - middle, axis=-1) <= reach,
        middle,
        radius,
    )


def _moc(moc):
    """Region of a MOC, in a circle where that is less than half of the sky."""
    circle = ()
    if moc.sky_fraction < 0.25:
        middle = moc.barycenter()
        reach = moc.largest_distance_from_coo_to_vertices(middle)
        circle = _vectors(middle).ravel(), u.Quantity(reach, u.rad).to_value(u.arcsec)
    return Region(
        lambda vectors: moc.contains_lonlat(*(u.deg * to_degrees(vectors))), *circle
    )


def _ra_dec(place):
    place = place.icrs
    return float(place.ra.deg), float(place.dec.deg)


def _around(corners):
    """Middle of unit vectors, and the distance of the farthest in arcsec."""
    middle = corners.mean(0)
    middle /= np.linalg.norm(middle)
    near = np.clip(corners @ middle, -1, 1).min()
    return middle, float(np.degrees(np.arccos(near)) * 3600)


def _polygon(corners):
    """Polygon whose sides are arcs of great circles."""
    from matplotlib.path import Path

    vectors = to_vectors(corners.icrs.ra.deg, corners.icrs.dec.deg).reshape(-1, 3)
    middle, radius = _around(vectors)
    if radius > 80 * 3600:
        raise ValueError(
            must('region', 'be less than 160 degrees wide', 'a larger one')
        )
    axes = axes_at(middle).T
    # Great circles are straight in the touching plane.
    path = Path(vectors @ axes / (vectors @ middle)[:, None])

    def test(points):
        near = points @ middle
        inside = near > 0.1
        inside[inside] = path.contains_points(
            points[inside] @ axes / near[inside, None]
        )
        return inside

    return Region(test, middle, radius)


def _sky_region(region):
    """Region of the package ``regions``, in a plane that touches the sky there."""
    centre = getattr(region, 'center', None)
    centre = _vectors(region.vertices if centre is None else centre)
    middle, radius = _around(np.atleast_2d(centre))
    names = 'radius', 'outer_radius', 'width', 'height', 'outer_width', 'outer_height'
    sizes = [getattr(region, name, None) for name in names]
    radius += max(
        [u.Quantity(v).to_value(u.arcsec) for v in sizes if v is not None] + [0]
    )
    [ra, dec] = to_degrees(middle)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ['RA---TAN', 'DEC--TAN'], [ra, dec]
    wcs.wcs.cdelt, wcs.wcs.crpix = [-1 / 3600, 1 / 3600], [1, 1]

    def test(points):
        inside = points @ middle > 0.1
        sky = SkyCoord(*to_degrees(points[inside]), unit='deg')
        inside[inside] = region.contains(sky, wcs)
        return inside

    return Region(test, middle, radius)


def _vectors(sky):
    return to_vectors(sky.icrs.ra.deg, sky.icrs.dec.deg)
