# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro simulate``, ``demo`` and ``coadd``: star fields, coadds of exposures.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import astropy.units as u

from bliss_astro._arguments import counted
from bliss_astro.units import flux_to_magnitude, magnitude_to_flux

from ._files import (
    IMAGE_FILES,
    IMAGE_MAPS,
    UsageError,
    as_key,
    check_by_band,
    check_outputs,
    check_paths,
    of_band,
    print_table,
    shows_progress,
    split_band,
    status,
    write_picture,
)
from ._options import read_image_of_many

# The field of the demo, and its files.
_N_EXPOSURES, _SHAPE, _DENSITY = 25, (256, 256), 0.003
_FILES = {
    'catalogue': 'bliss-demo-catalog.fits',
    'image': 'bliss-demo-image.fits',
    'picture': 'bliss-demo.png',
}
# Sky of one exposure of SDSS in r, electrons per pixel.
_SKY = 865.0
# Files of which one may serve for all images of a coadd.
_FOR_ALL = ('psf', 'mask')


def run_simulate(options):
    """
    Simulate a star field, with its truth.

    Simulate a coadd (or one exposure) of a star field like those of SDSS in r, in
    nanomaggies. The FITS file holds the image, in its header the PSF, sky, noise and
    gain, and a table TRUTH.

    Several bands of it have a file each: --bands gri -o 'field-{band}.fits'. Sky and
    limit are those of r, or of the first.
    """
    from bliss_astro.exposures._set import images_by_band
    from bliss_astro.psf import PSFModel
    from bliss_astro.simulation._images import write_simulated

    if options.band is not None and options.psf is None:
        msg = '--band is the band of the PSF and needs --psf'
        raise UsageError(msg)
    bands = _named_bands(options.bands)
    if options.band is not None and bands:
        msg = '--band does not go with --bands, which have PSFs of their own'
        raise UsageError(msg)
    outputs = _outputs(options, [*map(str, bands)] or [None])
    psf = None
    if options.psf is not None:
        psf = PSFModel.from_sdss(options.psf, options.band or 'r')
        for band, own in bands.items():
            own['psf'] = PSFModel.from_sdss(options.psf, str(band))
    ny, nx = options.shape
    d = options.n_exposures
    field = 'one exposure' if d == 1 else f'a coadd of {d} exposures'
    status(options, f'simulating {field} of {nx} x {ny} px')
    names = ('shape', 'density', 'seed', 'background', 'faintest', 'device')
    given = {name: getattr(options, name) for name in names}
    exposures, truth = simulate_field(d, psf=psf, bands=bands, **given)
    for band, exposure in images_by_band(exposures).items():
        stars = truth if band is None else _in_band(truth, band)
        path = of_band(options.output, band)
        write_simulated(exposure, stars, path, overwrite=options.overwrite)
    status(options, f'wrote {", ".join(outputs)} with {len(truth)} stars')


def _named_bands(text):
    """Dict of the bands of a text such as ``gri`` or ``DECam.g,DECam.r``."""
    from bliss_astro.exposures._bands import BANDS, as_band

    text = text or ''
    names = text.split(',') if ',' in text or text in BANDS else text
    try:
        return {as_band(name, 'a band'): {} for name in names}
    except ValueError as error:
        raise UsageError(f'--bands: {error}') from error


def _outputs(options, bands):
    """Paths of the outputs of bands; refused are those that could not be written."""
    if bands[1:] and '{band}' not in options.output:
        raise UsageError(f'-o {options.output}: several bands need {{band}} in it')
    outputs = [of_band(options.output, band) for band in bands]
    for path in outputs:
        check_paths(argparse.Namespace(**vars(options) | {'output': path}), 'image')
    return outputs


def _in_band(truth, band):
    """Table of stars with fluxes of another band."""
    stars = truth['x_centroid', 'y_centroid']
    stars['flux'] = truth[f'flux_{band}']
    stars['mag'] = flux_to_magnitude(stars['flux'].value) * u.mag
    return stars


def run_demo(options):
    """
    Simulate, detect and score a deep field; needs no data.

    Simulate a deep star field like those of SDSS, detect its stars with the bundled
    encoder, score the result against the truth, and write catalogue, image and picture.
    Takes less than a minute.
    """
    from bliss_astro.detection import detect_sources
    from bliss_astro.simulation._images import write_simulated

    from ._evaluate import Evaluation

    begun = time.perf_counter()
    folder = Path(options.output)
    paths = {kind: folder / name for kind, name in _FILES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    named = {str(path): path for path in paths.values()}
    check_outputs(named, overwrite=options.overwrite)
    ny, nx = _SHAPE
    text = f'simulating {_N_EXPOSURES} exposures of {nx} x {ny} px and their coadd'
    status(options, text)
    field = {'shape': _SHAPE, 'density': _DENSITY, 'seed': options.seed}
    exposure, truth = simulate_field(_N_EXPOSURES, **field)
    status(options, 'detecting with the encoder "stars"')
    catalog = detect_sources(exposure, encoder='stars')
    evaluation = Evaluation(catalog, truth, radius=1.0)
    catalog.write(paths['catalogue'], overwrite=options.overwrite)
    write_simulated(exposure, truth, paths['image'], overwrite=options.overwrite)
    write_picture(
        options,
        lambda figure: _draw(figure, exposure, catalog, truth, evaluation),
        paths['picture'],
        figsize=(13.6, 7.6),
    )
    print_table(evaluation.short_table())
    print()
    for kind, path in paths.items():
        print(f'{kind:<9}  {path}')
    status(options, f'done in {time.perf_counter() - begun:.1f} s')


def _draw(figure, exposure, catalog, truth, evaluation):
    """Draw the field with its catalogue, and beside it the scores."""
    from bliss_astro.plotting import plot_catalog

    from ._detect import grey_percentiles

    grid = figure.add_gridspec(2, 2, width_ratios=(1.6, 1))
    field = figure.add_subplot(grid[:, 0])
    percentile = grey_percentiles(exposure)
    style = {'ax': field, 'radius': 4.0, 'percentile': percentile}
    plot_catalog(exposure, catalog, truth=truth, **style)
    title = f'Coadd of {_N_EXPOSURES} simulated exposures, {len(truth)} stars'
    field.set_title(title, loc='right', fontsize='medium')
    evaluation.draw(figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1]))


def run_coadd(options):
    """
    Align exposures and take their mean.

    Align exposures, whatever their pixels, and take their weighted mean. The result
    states its noise, the correlation of that noise, its effective PSF and how many
    exposures each pixel has, and "bliss-astro detect" reads it as it is.

    IMAGE is a FITS file as for "bliss-astro detect", with celestial coordinates.
    Several bands are named, r=a.fits r=b.fits g=c.fits, and have a coadd each, on one
    grid: -o 'coadd-{band}.fits'.
    """
    begun = time.perf_counter()
    options.bands, options.images = zip(*map(split_band, options.images), strict=True)
    bands = options.bands
    names, n = list(dict.fromkeys(bands)), len(bands)
    if None in names[1:] or (names[0] is None and names[1:]):
        path = options.images[bands.index(None)]
        raise UsageError(f'{path}: all images are given as BAND=FILE, or none')
    check_by_band(options, bands)
    for name in IMAGE_FILES + IMAGE_MAPS:
        files = getattr(options, name) or []
        if len(files) == 1 and '{band}' in files[0]:
            files = [of_band(files[0], band) for band in bands]
            setattr(options, name, files)
        n_files = len(files)
        if n_files not in (0, n) and not (name in _FOR_ALL and n_files == 1):
            raise UsageError(f'--{name} names {n_files} files for {n} images')
    points = options.zero_points
    if points is not None and len(points) not in (1, n):
        raise UsageError(f'--zero-points gives {len(points)} numbers for {n} images')
    outputs = _outputs(options, names)

    from bliss_astro.coadds import coadd_exposures
    from bliss_astro.exposures._set import images_by_band

    status(options, f'adding {counted(n, "image")}')
    places = {b: [k for k, own in enumerate(bands) if own == b] for b in names}
    exposures = {as_key(b): _Exposures(options, b, own) for b, own in places.items()}
    if points is not None:
        points = points if len(points) == n else points * n
        points = {as_key(b): [points[k] for k in own] for b, own in places.items()}
    coadd = coadd_exposures(
        exposures.get(None, exposures),
        options.weights,
        match_background=options.match_background or False,
        sigma_clip=options.sigma_clip,
        zero_points=points.get(None, points) if points else None,
        method=options.method,
        progress_bar=shows_progress(options),
    )
    for (band, one), path in zip(images_by_band(coadd).items(), outputs, strict=True):
        one.write(path, overwrite=options.overwrite)
        print(one if band is None else f'{band}: {one}')
        along_x, along_y = one.noise_correlation
        print(f'correlation of the noise: {along_x:.3f} along x, {along_y:.3f} along y')
    seconds = time.perf_counter() - begun
    status(options, f'wrote {", ".join(outputs)} in {seconds:.1f} s')


class _Exposures(Sequence):
    """Exposures that are read when they are used: hundreds need no memory."""

    def __init__(self, options, band, places):
        self.options, self.band, self.places = options, band, places

    def __len__(self):
        return len(self.places)

    def __getitem__(self, k):
        k = self.places[k]
        image = read_image_of_many(self.options, k, self.band)
        if image.wcs is None:
            msg = f'{self.options.images[k]} has no celestial WCS, which aligning needs'
            raise ValueError(msg)
        return image


_FIELD = (
    'n_exposures:field shape density:field seed:field psf:field band:field bands '
    'background:field faintest device'
)
COMMANDS = {
    'demo': (run_demo, 'seed:field output:demo overwrite quiet'),
    'simulate': (run_simulate, _FIELD, 'output:image overwrite quiet'),
    'coadd': (
        run_coadd,
        'images:coadd weights match_background sigma_clip method zero_points',
        'output:coadd overwrite quiet',
    ),
}


# -- simulated fields ------------------------------------------------------------------


def simulate_field(
    n_exposures,
    *,
    shape,
    density,
    seed,
    psf=None,
    background=_SKY,
    faintest=None,
    device='cpu',
    bands=(),
):
    """
    Simulate a star field in nanomaggies, like those of SDSS in r.

    ``density`` is in stars per pixel, ``background`` the sky of one exposure in
    electrons per pixel, ``faintest`` the magnitude of the faintest stars, by default
    that of a signal-to-noise ratio of 3.4 in the coadd; ``psf`` is by default that of
    run 94, camcol 1, field 12. Returns an exposure and the table of its stars; with
    ``bands`` of `CoaddSimulator`, an exposure for each.
    """
    from bliss_astro.exposures._set import images_by_band
    from bliss_astro.priors import StarPrior
    from bliss_astro.priors._counts import FLOOR_SNR
    from bliss_astro.psf import PSFModel
    from bliss_astro.simulation import CoaddSimulator
    from bliss_astro.simulation._simulator import ELECTRONS_PER_NMGY

    if faintest is None:
        n_eff = (psf or PSFModel()).n_eff
        flux_min = FLOOR_SNR * math.sqrt(n_eff * background / n_exposures)
    else:
        flux_min = ELECTRONS_PER_NMGY * magnitude_to_flux(faintest)
    whole = StarPrior()
    prior = StarPrior(density, flux_min, flux_min * whole.flux_max / whole.flux_min)
    options = {'background': background, 'shape': shape, 'device': device, 'psf': psf}
    options |= {'bands': bands, 'margin': 0, 'unit': 'nmgy'}
    exposure, truth = CoaddSimulator(n_exposures, prior, **options).sample(rng=seed)
    facts = {'density': density, 'flux_min': flux_min / ELECTRONS_PER_NMGY}
    images = list(images_by_band(exposure).values())
    for image in images:
        image.meta['seed'] = seed
    # In other bands they are not those of the prior.
    images[0].meta |= facts
    truth['mag'] = flux_to_magnitude(truth['flux'].value) * u.mag
    return exposure, truth
