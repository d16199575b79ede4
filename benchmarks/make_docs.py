# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Write docs/performance.rst from the files in benchmarks/results.
"""

import json
import math
from pathlib import Path

_HERE = Path(__file__).parent
_PAGE = _HERE.parent / 'docs' / 'performance.rst'
_CARDS = _HERE.parent / 'bliss_astro' / 'data' / 'encoders'

_HEAD = """\
.. _performance:

Performance
===========

What the package and its bundled encoder reach, measured. Each table is written by
``benchmarks/make_docs.py`` from the result of the command above it; definitions are in
``benchmarks/README.rst``. Errors are one standard error. Simulated images come from
seeds that no training used.
"""

_SECTIONS = {
    'rendering': """\
Rendering
---------

Stars drawn by torch in single precision, against GalSim drawing the same sum of two
Gaussians and a Moffat profile without a pixel.
""",
    'galaxies': """\
Galaxies
--------

Galaxies of a bulge and a disk, drawn in Fourier space by torch in single precision,
against GalSim with tight parameters on a stamp of 53 pixels. Speeds are of one core, in
turns with GalSim at its default parameters and with an image of the PSF, as the codes
behind the papers do, on the same stamp. "Training" is the looser setting that
simulations for training use.
""",
    'autoencoder': """\
The learned galaxy model
------------------------

Galaxies with a signal-to-noise ratio above 7, encoded from noisy stamps and drawn
again, see :ref:`galaxy_model`. Chi-square and correlation are of pixels whose model
exceeds half a standard deviation. A fit that is right stays below 1, by its free
numbers.
""",
    'coadd_noise': """\
Noise of coadds
---------------

Exposures dithered by up to half a pixel, resampled bilinearly and averaged keep 4/9 of
the variance of a pixel and gain a correlation of 1/4 with the next one; the sum of all
covariances is conserved. "Stated" is what the simulator tells the encoder about each
coadd.
""",
    'simulator_speed': """\
Speed of the simulator
----------------------

The same coadds of ten exposures, drawn star by star by GalSim, with noise by numpy and
alignment by scipy, and by our simulator.
""",
    'stars_accuracy': """\
Accuracy of the bundled encoder
-------------------------------

The field of the coadd paper (Wang et al. 2022): on average three stars in the central
40 x 40 of 88 x 88 pixels, PSF of run 94, camcol 1, field 12, a sky of 865 electrons,
coadds of d exposures. For d = 1 the exact posterior of isolated stars would reach a
recall of 0.40 to 0.45 at magnitude 22.75 to 23, and a precision of 0.78 at estimated
magnitudes beyond 22.5. The coverage rows give the largest difference from the nominal
level among the 50, 68, 90 and 95 % intervals and the thirds of the stars by posterior
median flux.
""",
    'fields': """\
Stars and galaxies in many fields
---------------------------------

The NPE paper's experiment, see :ref:`fields_experiment` for what the encoders are and
for figures. "Many" are test images of many fields, "single" those of one. Only sources
with a true r < 22 are truth; "ours" is the bundled encoder, told the paper's prior.
""",
    'blends': """\
Blends
------

Two to six stars and galaxies brighter than r = 22.5 within 12 px of one place, see
:ref:`blends_experiment` for what is done and for all scores by SNR and blendedness.
SEP and photutils have deblending on and the settings of a grid that give the highest
F1 on other scenes.
""",
    'drawn_apart': """\
Two galaxies drawn apart
------------------------

The case study of the slides on blends, see :ref:`blends_experiment`.
""",
    'galaxy_seams': """\
Galaxies at borders of tiles
----------------------------

Isolated galaxies and stars at all places within a tile, under one noise, see
:ref:`blends_experiment`.
""",
    'crowded': """\
A globular cluster
------------------

Stars of M2 on an SDSS frame in r, brighter than r = 21, against rows of Hubble's, see
:ref:`crowded`. Matches lie within 0.5 px and 0.5 mag. The grid of the rival has 24
settings of threshold, PSF width, background and grouping.
""",
    'hsc_blends': """\
Another survey
--------------

Sources of known flux injected into pixels of Hyper Suprime-Cam, blank and blended ones,
see :ref:`tutorial-another-survey`. SEP and photutils have deblending on; each has the
settings and the kind of flux that are best for it.
""",
    'frame_reconstruction': """\
A frame taken apart
-------------------

From the file to the catalogue with shapes, the model image and the residuals of a
simulated frame of 1489 x 2048 px of stars and galaxies, in a process of its own.
""",
    'stated_psf': """\
PSFs of any telescope, stated and misstated
-------------------------------------------

Isolated stars of a signal-to-noise ratio of 5 to 500, drawn by GalSim with Gaussian,
Moffat (index 2.5, 4.8, 20), Airy, SDSS and double Gaussian PSFs of 1.3 to 7 px (FWHM
with the pixel); the detector is given an image of the same PSF, or of one that is too
broad or narrow.
""",
    'psf_estimate': """\
PSFs measured on the image itself
---------------------------------

`~bliss_astro.psf.estimate_psf` on simulated images with stars, galaxies, blends and
saturated stars, by number of usable stars.
""",
    'companions': """\
Companions of bright sources
----------------------------

Rows within 8 px of a source of a signal-to-noise ratio above 100 and below 5 % of its
flux, on two real SDSS frames (runs 4192 and 6377), and Rayleigh's test of their
position angles.
""",
    'bounded': """\
Hard images
-----------

Time and memory of images of 512 x 512 px on which a method without bounds would not
end.
""",
    'psf_told': """\
What being told the PSF is worth
--------------------------------

The bundled encoder on the same images, told each field's own PSF, the median PSF of all
fields, or another field's (:ref:`psf-told`). Classes of sources brighter than r = 21.5.
""",
    'two_epochs_types': """\
Stars and galaxies in two epochs
--------------------------------

SDSS runs 4192 and 6377 see the same sky: sources brighter than r = 20.5 of one found
in the other within a pixel, their classes, and differences of fluxes over their errors.
The flux of a galaxy depends on its unknown profile, which both epochs share, so that
differences are smaller than the errors.
""",
    'flux_errors': """\
Errors of isolated stars
------------------------

One star in each image, its position unknown to the encoder. Stated errors (half the
width between the 16 and 84 % quantiles of the flux posterior) and the scatter of the
residuals, over the Cramer-Rao bound of that star under the correlated noise of the
coadd.
""",
    'counts': """\
Counts
------

Number of stars in the central 40 x 40 pixels of the coadd paper's fields: ranks of
the true count in the posterior's (randomised PIT), and true minus expected number by
bins of the expected one.
""",
    'seams': """\
Borders of tiles
----------------

One star in each image at a random place within a pixel, and whole fields seen through
grids that are shifted by some pixels; see :ref:`seams`.
""",
    'exactness': """\
Against the exact posterior
---------------------------

One star at most in a small single exposure, where the posterior can be integrated by
brute force over presence, position and flux
(`~bliss_astro.metrics.exact_star_posterior`), under the encoder's own prior.
""",
    'resampled_noise': """\
Noise of resampled exposures
----------------------------

Real exposures of SDSS, Bok and DECam on grids that are not their own: the noise that
`~bliss_astro.coadds.align_exposures` states, against that of blank sky. See
:ref:`correlated-noise`.
""",
    'real_coadds': """\
Coadds of real exposures
------------------------

The two SDSS epochs stacked, and the odd against the even exposures of SDSS stamps of
12 to 18 epochs (of exposures of one run that share pixels, one is used). Detections
are matched within an arcsec. Most pairs of the stamps are pieces of galaxies, whose
share of the light is uncertain in both halves alike.
""",
    'frame_speed': """\
A whole frame
-------------

From file to table, against photutils with ``Background2D(64)``, ``SourceFinder(5)``
with deblending on the image smoothed with a Gaussian of 3 pixels FWHM, and
``SourceCatalog.to_table``, in turns on the same machine. Its threshold is 1.5 sigma
either of the smoothed image or of the image before the smoothing. Neither is
a comparison at equal depth, as the numbers of sources show: the first also
deblends a great many peaks of noise, the second stops short of our faintest sources.
""",
    'frame_speed_sparse': """\
A frame at high galactic latitude
.................................

Run 4192 in r, a sparse field. From file to table, against photutils with
``Background2D(64)``, ``SourceFinder(5)`` with deblending on the image smoothed with a
Gaussian of 3 pixels FWHM, and ``SourceCatalog.to_table``, in turns on the same machine.
Its threshold is 1.5 sigma either of the smoothed image or of the image before the
smoothing. Neither is a comparison at equal depth, as the numbers of sources show: the
first also deblends a great many peaks of noise, the second stops short of our
faintest sources, and is four times as fast as we are.
""",
    'two_epochs': """\
The same sky twice
------------------

SDSS runs 4192 and 6377 in r, and simulations with the PSF, sky and gain of each.
Isolated point sources brighter than r = 20, see ``benchmarks/README.rst``.
""",
}

# Benchmarks that measure bundled encoders, which may have been trained on since.
_ENCODERS = {
    'blends': 'stars-galaxies',
    'bounded': 'stars-galaxies',
    'cameras': 'stars-galaxies',
    'companions': 'stars-galaxies',
    'crowded': 'stars-crowded',
    'drawn_apart': 'stars-galaxies',
    'fields': 'stars-galaxies',
    'frame_reconstruction': 'stars-galaxies',
    'frame_speed': 'stars-galaxies',
    'galaxy_seams': 'stars-galaxies',
    'gallery': 'stars-galaxies',
    'sdss_frame': 'stars-galaxies',
    'stars_accuracy': 'stars',
    'stated_psf': 'stars-galaxies',
    'two_epochs': 'stars',
    'two_epochs_types': 'stars-galaxies',
}

_LABELS = {None: '', True: 'yes', False: '**no**'}


def _number(value, error=None):
    if value is None:
        return ''
    if error:
        # Two digits of the error, and as many of the number.
        digits = max(0, 1 - math.floor(math.log10(abs(error))))
        if digits <= 6:
            return f'{value:.{digits}f}'
    return f'{value:.4g}' if value >= 1e-3 or value <= -1e-3 else f'{value:.2g}'


def _list_table(header, rows, widths):
    lines = ['.. list-table::', '    :header-rows: 1', f'    :widths: {widths}', '']
    for row in [header, *rows]:
        for k, cell in enumerate(row):
            lines.append(f'    {"* -" if k == 0 else "  -"} {cell}'.rstrip())
    return '\n'.join(lines) + '\n'


def _rows_table(result):
    rows = [
        [
            row['what'],
            row['target'],
            _number(row['measured'], row['error']),
            '' if row['error'] is None else f'{row["error"]:.2g}',
            _LABELS[row['passed']],
        ]
        for row in result['rows']
    ]
    header = ['', 'Target', 'Measured', 'Error', 'Met']
    return _list_table(header, rows, '50 16 14 12 8')


def _provenance(result):
    machine, versions = result['machine'], result['versions']
    packages = ', '.join(f'{k} {v}' for k, v in versions.items())
    small = ' A **quick** run: the numbers are rough.' if result['quick'] else ''
    cores = f'{machine["threads"]} of {machine["cores"]} cores'
    return (
        f'``{result["command"]}``\n\n'
        f'{result["date"]}, {machine["cpu"]}, {cores}; {packages}.{small}'
        f'{_weights(result)}\n'
    )


def _weights(result):
    """The hash of the weights, and whether others are bundled by now."""
    encoder = _ENCODERS.get(result['benchmark'])
    if encoder is None:
        return ''
    then = result.get('weights', {}).get(encoder)
    card = json.loads((_CARDS / f'{encoder}.json').read_text())
    if then is None:
        # Results did not state them at first.
        text, same = '', card['date'] <= result['date']
    else:
        text, same = f' Weights: {encoder} {then}.', card['sha256'].startswith(then)
    old = ' **Measured with weights before those that are bundled now.**'
    return text + ('' if same else old)


def _magnitude_table(details):
    rows = []
    for depth, curves in details.items():
        curve = next(iter(curves.values()))['by_half_magnitude']
        precision = {row[0]: row for row in curve['precision']}
        for low, high, n, share, *_ in curve['recall']:
            other = precision.get(low)
            cells = [depth, f'{low:g} to {high:g}', str(n), f'{share:.3f}']
            cells += ['', ''] if other is None else [str(other[2]), f'{other[3]:.3f}']
            rows.append(cells)
    header = ['d', 'Magnitude', 'True stars', 'Recall', 'Found stars', 'Precision']
    return _list_table(header, rows, '8 20 18 18 18 18')


def _coverage_table(details):
    rows = []
    for depth, curves in details.items():
        coverage = next(iter(curves.values()))['coverage']
        for quantity in ('flux', 'x', 'y'):
            own = coverage[quantity]
            for third, shares in zip(own['thirds'], own['share'], strict=True):
                rows.append([depth, quantity, third, *(f'{s:.3f}' for s in shares)])
    header = ['d', 'Quantity', 'Third', '50 %', '68 %', '90 %', '95 %']
    return _list_table(header, rows, '8 17 15 15 15 15 15')


def _accuracy_extras(result):
    details = result['details']['depths']
    parts = []
    figure = _HERE.parent / 'docs' / '_static' / 'stars_accuracy.png'
    if figure.is_file():
        parts.append(
            '.. figure:: _static/stars_accuracy.png\n'
            '    :width: 100%\n'
            '    :alt: Recall, precision and flux residuals by magnitude\n\n'
            '    Recall by true magnitude, precision and flux residuals by estimated '
            'magnitude;\n    bands are 68 % (Wilson) of the shares and the quartiles '
            'of the residuals.\n'
        )
    parts.append('By half magnitudes:\n\n' + _magnitude_table(details))
    parts.append(
        'Coverage of the intervals of flux and position, by thirds:\n\n'
        + _coverage_table(details)
    )
    return '\n'.join(parts)


def _section(name, text):
    path = _HERE / 'results' / f'{name}.json'
    if not path.is_file():
        path = _HERE / 'results' / f'{name}-quick.json'
    if not path.is_file():
        return ''
    result = json.loads(path.read_text())
    if name in ('fields', 'blends'):
        # The page of the experiment has all of it.
        result['rows'] = [row for row in result['rows'] if row['target']]
    parts = [text, _provenance(result), _rows_table(result)]
    if name == 'stars_accuracy':
        parts.append(_accuracy_extras(result))
    return '\n'.join(parts)


def main():
    parts = [_HEAD]
    for name, text in _SECTIONS.items():
        section = _section(name, text)
        if section:
            parts.append(section)
        else:
            print(f'no results of {name}')
    _PAGE.write_text('\n'.join(parts))
    print(f'written: {_PAGE.name}')
    # It needs the tables of this module.
    from _blends_tables import write_pages

    written = write_pages(_HERE / 'results', _HERE.parent / 'docs')
    print(f'written: {", ".join(written)} of the page on blends')
    from _cameras_tables import write_page

    written = write_page(_HERE / 'results', _HERE.parent / 'docs')
    print(f'written: {", ".join(written) or "nothing"} of the page on cameras')


if __name__ == '__main__':
    main()
