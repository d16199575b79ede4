# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Stars and galaxies of known flux, put into the blends one at a time.

Neither drawn by this package nor from its priors: by GalSim, with the image of
the blend's own PSF; galaxies are rows of a catalogue.
"""

import dataclasses

import numpy as np
from _hsc_data import GAIN, PIXEL_SCALE, UNIT

__all__ = ['MAGNITUDES', 'Injection', 'draw_injections', 'put_in']

MAGNITUDES = (22.5, 26.25)
# Distance from the edges, and from known sources of what counts as blank and as
# blended, in pixels; the FWHM is 3.4.
_EDGE, _BLANK, _BLENDED = 5.0, 9.0, (2.0, 7.0)
# Rows of the catalogue as bright as the source within so many magnitudes.
_ALIKE = 0.25


@dataclasses.dataclass(frozen=True, eq=False)
class Injection:
    """
    One source.

    Attributes
    ----------
    blend : int
        Which blend it is put into.

    x, y, magnitude : float
        Pixels, and i (AB).

    is_galaxy, blended : bool
        What it is, and whether it lies beside a known source.

    shape : tuple of float
        Of a galaxy: disk fraction; half-light radius along the major axis
        (arcsec), axis ratio and angle (degrees) of the disk, and of the bulge.

    seed : int
        For the noise of its photons.
    """

    blend: int
    x: float
    y: float
    magnitude: float
    is_galaxy: bool
    blended: bool
    shape: tuple = ()
    seed: int = 0

    @property
    def flux(self):
        """In nmgy."""
        return 10 ** (0.4 * (22.5 - self.magnitude))


def galaxy_rows(table):
    """
    Shapes of a catalogue's galaxies: magnitudes, and rows for `Injection.shape`.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Galaxies of LSST CatSim.

    Returns
    -------
    magnitude : float array ``(n,)``
        In i.

    shape : float array ``(n, 7)``
        See `Injection`.
    """

    def column(name):
        return np.array(table[name], dtype=float)

    disk, bulge = column('fluxnorm_disk'), column('fluxnorm_bulge')
    parts = [disk / (disk + bulge)]
    for kind in ('d', 'b'):
        major, minor = column(f'a_{kind}'), column(f'b_{kind}')
        there = (major > 0) & (minor > 0)
        ratio = np.where(there, minor / np.where(there, major, 1), 1.0)
        angle = column('pa_disk' if kind == 'd' else 'pa_bulge')
        parts += [np.where(there, major, 0), np.clip(ratio, 0.05, 1), angle]
    good = np.isfinite(parts).all(0)
    # A component with light has a size.
    good &= (parts[1] > 0) | (parts[0] == 0)
    good &= (parts[4] > 0) | (parts[0] == 1)
    return column('i_ab')[good], np.stack(parts, -1)[good]


def _places(shape, known, rng, n, *, blended):
    """Places (x, y) uniform where they may be; fewer if there is no room."""
    ny, nx = shape
    x = rng.uniform(_EDGE, nx - 1 - _EDGE, 400 * n)
    y = rng.uniform(_EDGE, ny - 1 - _EDGE, 400 * n)
    apart = np.hypot(x[:, None] - known[:, 0], y[:, None] - known[:, 1]).min(1)
    low, high = _BLENDED if blended else (_BLANK, np.inf)
    good = np.flatnonzero((apart > low) & (apart < high))[:n]
    return x[good], y[good]


def draw_injections(blends, known, galaxies, n, rng):
    """
    Draw about n sources.

    Parameters
    ----------
    blends : list of `~_hsc_data.Blend`
        Where to put them; the larger get more.

    known : list of array ``(k, 2)``
        Places (x, y) of the sources of each.

    galaxies : tuple
        Of `galaxy_rows`.

    n : int
        How many: half of them blended, half galaxies.

    rng : `numpy.random.Generator`
        Source of randomness.

    Returns
    -------
    injections : list of `Injection`
        Fewer by those for which a small blend has no blank place.
    """
    area = np.array([blend.exposure.data.size for blend in blends], float)
    injections = []
    for blended in (False, True):
        numbers = rng.multinomial(n // 2, area / area.sum())
        for k, (blend, number) in enumerate(zip(blends, numbers, strict=True)):
            if number == 0:
                continue
            places = _places(
                blend.exposure.shape, known[k], rng, number, blended=blended
            )
            injections += [
                _one(k, x, y, blended, galaxies, rng)
                for x, y in zip(*places, strict=True)
            ]
    return injections


def _one(blend, x, y, blended, galaxies, rng):
    magnitude = rng.uniform(*MAGNITUDES)
    is_galaxy, shape = bool(rng.uniform() < 0.5), ()
    if is_galaxy:
        alike = np.flatnonzero(np.abs(galaxies[0] - magnitude) < _ALIKE)
        row = galaxies[1][rng.choice(alike)].copy()
        # One turn for both, so that they keep their angle to each other.
        row[[3, 6]] += rng.uniform(0, 180)
        shape = tuple(float(v) for v in row)
    seed = int(rng.integers(2**31))
    return Injection(
        blend, float(x), float(y), magnitude, is_galaxy, blended, shape, seed
    )


def _profile(injection):
    import galsim

    if not injection.is_galaxy:
        return None
    fraction, *rest = injection.shape
    parts = []
    for share, kind, (radius, ratio, angle) in (
        (fraction, galsim.Exponential, rest[:3]),
        (1 - fraction, galsim.DeVaucouleurs, rest[3:]),
    ):
        if share > 0:
            round_one = kind(half_light_radius=radius * np.sqrt(ratio), flux=share)
            parts.append(round_one.shear(q=ratio, beta=angle * galsim.degrees))
    return galsim.Sum(parts)


def draw(blend, injection):
    """
    Draw the source as it would be seen without noise.

    Parameters
    ----------
    blend : `~_hsc_data.Blend`
        With the PSF, which contains the pixel.

    injection : `Injection`
        The source.

    Returns
    -------
    image : array ``(ny, nx)``
        In nmgy.
    """
    import galsim

    ny, nx = blend.psf.shape
    centre = galsim.PositionD(
        blend.psf_centre[0] - (nx - 1) / 2, blend.psf_centre[1] - (ny - 1) / 2
    )
    psf = galsim.InterpolatedImage(
        galsim.Image(blend.psf), scale=PIXEL_SCALE, offset=centre, flux=1.0
    )
    galaxy = _profile(injection)
    profile = psf if galaxy is None else galsim.Convolve(galaxy, psf)
    ny, nx = blend.exposure.shape
    place = (injection.x - (nx - 1) / 2, injection.y - (ny - 1) / 2)
    image = profile.withFlux(injection.flux).drawImage(
        nx=nx, ny=ny, scale=PIXEL_SCALE, offset=place, method='no_pixel', dtype=float
    )
    return image.array


def put_in(blend, injection):
    """
    The blend with a source in it, and the noise of its photons.

    Parameters
    ----------
    blend : `~_hsc_data.Blend`
        The blend.

    injection : `Injection`
        The source.

    Returns
    -------
    exposure : `~bliss_astro.exposures.Exposure`
        The changed image.
    """
    signal = draw(blend, injection)
    rng = np.random.default_rng(injection.seed)
    gain = GAIN / UNIT.value
    noise = rng.standard_normal(signal.shape) * np.sqrt(np.maximum(signal, 0) / gain)
    return blend.exposure.replace(data=blend.exposure.data + signal + noise)
