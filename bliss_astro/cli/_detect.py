# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro detect``, ``check``, ``completeness``, ``reconstruct``: catalogues.
"""

import argparse
import time

import numpy as np

from bliss_astro._warnings import messages_about

from ._files import (
    as_key,
    check_by_band,
    check_paths,
    count_text,
    of_band,
    print_table,
    shows_progress,
    split_bands,
    status,
    write_catalog,
    write_picture,
    write_results,
)
from ._options import ROWS_SHOWN, detection_keywords, read_image_file

# -- detect --------------------------------------------------------------------------


def run_detect(options):
    """
    Detect the stars and galaxies of an image.

    IMAGE is a FITS file, plain or compressed. Frames and corrected frames (fpC) of SDSS
    and the output of "bliss-astro simulate" are recognised by their content; of any
    other file the first two-dimensional image is taken, with its BUNIT, its WCS, an
    extension MASK, and the header cards of gain and saturation where they are sound.
    Numbers that are neither in the file nor given are estimated. An extension and a
    section may follow, as CFITSIO writes them: 'image.fits[SCI][101:400,201:500]' are
    columns 101 to 400 and rows 201 to 500, counted from 1.

    Several bands are named: r=frame-r.fits g=frame-g.fits, or with wavelength and width
    in nm: F606W@590,220=image.fits. Options hold for all of them, or by band,
    --zero-point r=25.1,g=24.9; in names of files {band} stands for the band: --psf
    'psf-{band}.fits'.
    """
    begun = time.perf_counter()
    arguments = {'bin': options.bin, 'n_threads': options.threads}
    catalog = _detect(options, 'catalog', **arguments, **_kept(options))
    write_catalog(options, catalog, options.output, posterior=options.posterior)
    ny, nx = catalog.exposure.shape
    # About two dots for each pixel of an image of a few thousand pixels.
    width = float(np.clip(nx / 75, 7.0, 30.0))
    write_picture(
        options,
        lambda figure: _draw_overlay(figure, catalog, width),
        options.plot,
        figsize=(1.12 * width, float(np.clip(width * ny / nx, 3.0, 30.0)) + 0.5),
    )
    seconds = time.perf_counter() - begun
    found = f'{count_text(catalog)} above p = {options.threshold:.10g}'
    status(options, f'{found} in {seconds:.1f} s')
    if options.output is None:
        _print_brightest(options, catalog)


def _read(options, kind):
    """Check the arguments, and read the image; return the keywords of detection too."""
    check_paths(options, kind)
    paths = options.image
    status(options, f'reading {paths if isinstance(paths, str) else " ".join(paths)}')
    keywords = detection_keywords(options)
    return *_read_images(options), keywords


def _read_images(options):
    """Read the image of a command, or a dict of those of bands; and the kind."""
    found, paths = {}, split_bands(options.image)
    check_by_band(options, paths)
    for band, path in paths.items():
        values = {name: of_band(value, band) for name, value in vars(options).items()}
        namespace = argparse.Namespace(**values | {'image': path})
        with messages_about(band and f'band {str(as_key(band))!r}'):
            found[as_key(band)], kind = read_image_file(namespace)
    return found.get(None, found), kind


def _detect(options, kind, **arguments):
    """Read the image and detect; return the catalogue, which holds the exposure."""
    from bliss_astro.detection import detect_sources
    from bliss_astro.detection._estimates import image_line

    image, file_kind, keywords = _read(options, kind)
    several = isinstance(image, dict)
    ny, nx = next(iter(image.values())).shape if several else image.shape
    article = 'an' if file_kind[0] in 'iS' else 'a'
    bands = f' in {", ".join(map(str, image))}' if several else ''
    status(options, f'detecting in {nx} x {ny} px of {article} {file_kind}{bands}')
    arguments |= keywords | {'progress_bar': shows_progress(options)}
    arguments |= {'reference': _reference(options)}
    catalog = detect_sources(image, options.threshold, **arguments)
    record, shape = catalog.meta['estimated'], catalog.exposure.shape
    status(options, image_line(record, shape))
    for band in catalog.posterior.meta.get('bands', ())[1:]:
        status(options, image_line(record, shape, band))
    return catalog


def _reference(options):
    """Reference band by what was typed: DECam.r, whose columns are those of r."""
    bands = [band for band in split_bands(options.image) if band is not None]
    named = {band.partition('@')[0]: str(as_key(band)) for band in bands}
    return named.get(options.reference, options.reference)


def _kept(options):
    """Keyword of detection where a file is to keep the posterior, for samples."""
    return {'keep': 'posterior'} if options.posterior else {}


def _print_brightest(options, catalog):
    """Print the first rows of a catalogue, with the ellipticity of galaxies only."""
    from astropy.table import MaskedColumn

    from bliss_astro.catalog._columns import SHAPE_NAMES

    shown = catalog[:ROWS_SHOWN].copy()
    # It is the best measured number of a shape; sixteen columns more fit on no screen.
    left_out = [n for n in shown.colnames if n in SHAPE_NAMES - {'e1', 'e2'}]
    shown.remove_columns(left_out)
    if 'galaxy_probability' in shown.colnames:
        star = np.asarray(shown['galaxy_probability']) < 0.5
        for name in {'e1', 'e2'} & set(shown.colnames):
            shown[name] = MaskedColumn(np.asarray(shown[name]), mask=star)
    print_table(shown)
    if left_out and len(catalog):
        status(
            options,
            f'e1, e2: of galaxies; -o catalog.fits writes {len(left_out)} more columns '
            'of shapes',
        )
    if len(catalog) > ROWS_SHOWN:
        rest = len(catalog) - ROWS_SHOWN
        status(options, f'and {rest} more; -o catalog.fits writes all of them')


def _draw_overlay(figure, catalog, width):
    """Draw a catalogue over its image, of several bands in colours."""
    image = catalog.exposure
    ny, nx = image.shape
    axes = figure.add_subplot(projection=image.wcs)
    radius = _circle_radius(catalog, max(nx, ny))
    options = {'ax': axes, 'radius': radius, 'percentile': grey_percentiles(image)}
    catalog.plot(**options)
    line_width = float(np.clip(0.25 * radius * 72 * width / nx, 0.4, 1.4))
    axes.collections[-1].set_linewidth(line_width)
    title = f'{count_text(catalog)} above p = {catalog.meta.get("threshold", 0.5):.10g}'
    axes.set_title(title, loc='right', fontsize='medium')


def _circle_radius(catalog, size):
    """Choose a radius in pixels at which most neighbours do not overlap."""
    largest = max(2.5, min(6.0, size / 60))
    if len(catalog) < 2:
        return largest
    from scipy.spatial import KDTree

    points = np.column_stack([catalog['x_centroid'], catalog['y_centroid']])
    spacing = KDTree(points).query(points, k=2)[0][:, 1]
    return float(np.clip(0.5 * np.median(spacing), 2.0, largest))


def grey_percentiles(exposure):
    """Return percentiles at which faint stars show and bright ones are black."""
    data = exposure.data[~exposure.mask].astype(float)
    # Stars only brighten pixels, so the faint ones hold the sky and its noise.
    low, sky = np.percentile(data, [5, 25])
    noise = (sky - low) / 0.97
    share = 100 * float(np.mean(data < sky + 40 * noise))
    return 20.0, float(np.clip(share, 80.0, 99.9))


# -- checks --------------------------------------------------------------------------


def run_check(options):
    """
    Test the residual of a catalogue.

    Detect the sources of an image, take them off it, and report faults of the residual
    in plain words: a wrong PSF, background, noise or gain, sources that are missing or
    of the wrong kind. IMAGE is any file that "bliss-astro detect" reads; with several
    bands, each has its own tests.
    """
    from astropy.table import vstack

    from bliss_astro.exposures._set import images_by_band
    from bliss_astro.plotting import plot_check

    catalog = _detect(options, 'table')
    status(options, f'checking {count_text(catalog)}')
    check = catalog.check(n_draws=options.draws, rng=options.seed)
    tables, own = [], images_by_band(check)
    for band, one in own.items():
        if band is not None:
            print(f'Band {band}:')
            one.tests.add_column(band, name='band', index=0)
        print(one.summary(n_most=20))
        tables.append(one.tests)
    n, table = len(own), vstack(tables)
    figure = {'n_panels': 2 * n, 'n_rows': n, 'figsize': (11.5, 5.0 * n)}
    write_results(options, table, lambda ax: plot_check(check, ax=ax), **figure)


def run_completeness(options):
    """
    Completeness of the catalogue of an image, by injected sources.

    Inject sources into an image, detect them, and print which share is found and how
    well their fluxes are measured. IMAGE is any file that "bliss-astro detect" reads;
    with several bands, sources are put into all of them, with colours of the sky.
    """
    from bliss_astro.checks import completeness
    from bliss_astro.detection import BlissFinder

    image, _, keywords = _read(options, 'table')
    status(options, 'injecting sources')
    result = completeness(
        image,
        BlissFinder(options.threshold, reference=_reference(options), **keywords),
        magnitudes=options.magnitudes,
        types=options.types,
        n_sources=options.sources,
        rng=options.seed,
        progress_bar=shows_progress(options),
    )
    names = ('n', 'recall', 'n_masked', 'n_blended', 'bias', 'scatter', 'accuracy')
    kind = 'mag' if 'mag_low' in result.table.colnames else 'flux'
    print_table(result.table['type', f'{kind}_low', f'{kind}_high', *names])
    print('\n'.join(repr(result).splitlines()[1:]))
    write_results(options, result.table, lambda a: result.plot(ax=a), n_panels=2)


def run_reconstruct(options):
    """
    Model and residual of an image.

    Detect the sources of an image, render the catalogue, and write the model, the
    residual and the catalogue, all to one FITS file. IMAGE is any file that
    "bliss-astro detect" reads.

    OUT.fits has the extensions MODEL (light of all sources, without sky), RESIDUAL
    (data less sky and model), CHI (the same in units of the noise), DRAWS (with
    --draws), and CATALOG, which "bliss-astro evaluate" and others read. With several
    bands there are MODEL_R, RESIDUAL_R and so on of each.
    """
    from bliss_astro.checks._reconstruction import write_images
    from bliss_astro.checks._residuals import half_width
    from bliss_astro.exposures._set import images_by_band
    from bliss_astro.plotting import plot_reconstruction

    catalog = _detect(options, 'image', **_kept(options))
    status(options, f'reconstructing {count_text(catalog)}')
    result = catalog.reconstruct(n_draws=options.draws, rng=options.seed)
    files = {'overwrite': options.overwrite, 'posterior': options.posterior}
    write_images(result, options.output, **files)
    status(options, f'wrote {options.output}')
    write_catalog(options, catalog, options.catalog_copy)
    ny, nx = catalog.exposure.shape
    n = 3 + min(options.draws, 2)
    write_picture(
        options,
        lambda axes: plot_reconstruction(result, ax=axes),
        options.plot,
        figsize=(5.0 * n, float(np.clip(4.6 * ny / nx, 2.5, 9.0)) + 0.8),
        n_panels=n,
    )
    for band, one in images_by_band(result).items():
        own = '' if band is None else f' in {band}'
        print(f'{count_text(catalog)}, model flux{own} {one.model.sum():.6g}')
        chi = one.chi[np.isfinite(one.chi)].astype(float)
        if chi.size:
            print(
                f'residual / noise{own}: median {np.median(chi):.3f}, half 16-84 % '
                f'width {half_width(chi):.3f}, chi2 / n {np.mean(chi**2):.3f}'
            )


_MEASUREMENT = 'encoder threshold density seed device'
_RESULTS = 'output:table plot overwrite quiet'
COMMANDS = {
    'detect': (
        run_detect,
        'image:bands reference threshold encoder density device threads bin',
        'output:catalog posterior plot overwrite quiet',
    ),
    'check': (
        run_check,
        f'image:bands reference {_MEASUREMENT} draws:check',
        _RESULTS,
    ),
    'completeness': (
        run_completeness,
        f'image:bands reference {_MEASUREMENT} magnitudes sources types',
        _RESULTS,
    ),
    'reconstruct': (
        run_reconstruct,
        f'image:bands reference {_MEASUREMENT} draws:model',
        'output:model posterior catalog_copy plot overwrite quiet',
    ),
}
