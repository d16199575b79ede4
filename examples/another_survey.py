# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Train an encoder for another survey
===================================

An encoder for a survey that the package was not written for: HSC.

The images are cut-outs of Subaru's Hyper Suprime-Cam in i, with their variance
and PSF; galaxies and stars of simulated catalogues of LSST are the prior. Writes
the configuration of the training, and trains with --train (half an hour on one
core); with the weights of such a training, --encoder looks at one blend::

    python another_survey.py data/hsc_blends data/catalogs -o hsc.toml
    bliss-astro train hsc.toml -o hsc
    python another_survey.py data/hsc_blends data/catalogs \\
        --encoder hsc/hsc.safetensors --plot hsc.png
"""

import argparse
import dataclasses
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.table import Table, vstack

from bliss_astro import PSFModel, detect_sources
from bliss_astro.exposures import Exposure, measure_noise
from bliss_astro.priors import CatalogPrior, FieldPrior
from bliss_astro.training import make_recipe
from bliss_astro.units import magnitude_to_flux

# Of the survey: side of a pixel in arcsec, zero point, the place of the i band
# in the files, and electrons per unit of flux. The last is the slope of variance
# on flux where the variance plane holds the noise of sources.
PIXEL_SCALE, ZERO_POINT, BAND, GAIN = 0.168, 27.0, 2, 4e4
# The unit of the images, and the number of exposures that a simulated coadd has:
# little depends on it.
UNIT = magnitude_to_flux(ZERO_POINT) * u.nmgy
DEPTH = 5
# How much of its square degree the catalogue of galaxies holds: it is 10,000 rows
# of 858,502.
GALAXY_AREA = 10_000 / 858_502 * u.deg**2


def read_blend(path, *, noise_correlation=(0.0, 0.0)):
    """
    Read a cut-out as an exposure in nanomaggies.
    """
    with np.load(path, allow_pickle=True) as file:
        data, variance = (file[k][BAND].astype(float) for k in ('images', 'variance'))
        psf = file['psfs'][BAND].astype(float)
    return Exposure(
        data * UNIT,
        bkg_error=np.sqrt(variance) * UNIT,
        effective_gain=GAIN * u.electron / UNIT,
        # The fit finds the centre, which is none of a pixel's.
        psf=PSFModel.fit(psf / psf.sum()),
        noise_correlation=noise_correlation,
        meta={'path': str(path)},
    )


def noise_correlation(exposures):
    """
    Correlation of the noise of neighbouring pixels, over many small images.
    """
    values, weights = [], []
    for exposure in exposures:
        data = exposure.data / exposure.bkg_error
        try:
            # Lanczos resampling correlates pixels some way apart.
            noise = measure_noise(data, background=0.0, max_lag=5)
        except ValueError:  # too little blank sky
            continue
        values.append(np.mean(noise.noise_correlation))
        weights.append(noise.n_pixels)
    return float(np.average(values, weights=weights))


def sky_prior(folder):
    """
    Stars and galaxies in i, fitted to simulated catalogues of LSST.
    """
    galaxies = Table.read(folder / 'small_cat.fits')
    stars = Table.read(folder / 'stars_med_june2018.fits')

    def column(name):
        value = np.array(galaxies[name], dtype=float)
        return np.where(value > 0, value, np.nan)

    disk, bulge = (
        np.array(galaxies[f'fluxnorm_{k}'], float) for k in ('disk', 'bulge')
    )
    table = Table(
        {
            'magnitude': np.array(galaxies['i_ab'], dtype=float),
            'is_galaxy': np.ones(len(galaxies), dtype=bool),
            'disk_fraction': disk / (disk + bulge),
            'disk_radius': column('a_d'),
            'bulge_radius': column('a_b'),
            'disk_axis_ratio': np.minimum(column('b_d') / column('a_d'), 1),
            'bulge_axis_ratio': np.minimum(column('b_b') / column('a_b'), 1),
        }
    )
    empty = Table({name: np.full(len(stars), np.nan) for name in table.colnames[2:]})
    empty['magnitude'] = np.array(stars['i_ab'], dtype=float)
    empty['is_galaxy'] = np.zeros(len(stars), dtype=bool)
    options = {
        'complete_to': 26.5,
        'shapes_to': 26.0,
        'magnitude_range': (16.0, 29.0),
        'star_from': 16.0,
        'galaxy_from': 19.0,
        # Half a magnitude beyond the catalogues' end counts go on rising as before.
        'star_slopes': (0.2, 0.05),
        'galaxy_slopes': (0.6, 0.2),
        'radius_range': (0.05, 15.0),
    }
    both = vstack([table, empty])
    # The catalogues cover different areas.
    return CatalogPrior(
        CatalogPrior.fit(both, area=1 * u.deg**2, **options).stars,
        CatalogPrior.fit(both, area=GALAXY_AREA, **options).galaxies,
    )


def field_prior(recipe):
    """
    PSF, sky and calibration of an exposure, around those that the recipe measured.
    """
    rows = []
    for facts in recipe.facts:
        variance = np.mean(facts.one_exposure_variance)
        scale = facts.effective_gain / DEPTH
        # Electrons are known by their noise alone; exposures of other lengths
        # have more or fewer of them at the same depth.
        for factor in (0.8, 1.0, 1.25):
            shape = facts.psf_shapes[0]
            rows.append([*shape[:6], factor**2 * variance, factor * scale, 0.0])
    names = ['sigma1', 'sigma2', 'b', 'sigmap', 'p0', 'beta']
    names += ['background', 'electrons_per_nmgy', 'read_noise']
    return FieldPrior.fit(
        Table(np.array(rows), names=names), widen=1.5, ellipticity=0.03
    )


def complete(recipe, catalogs, *, n_steps=3000):
    """
    Make of a recipe for stars one for stars and galaxies, with their priors.
    """
    encoder, simulation, training = recipe.configs
    encoder = dataclasses.replace(encoder, galaxies=True)
    simulation = dataclasses.replace(
        simulation,
        population='sky',
        pixel_scale=PIXEL_SCALE,
        single_fraction=0.0,
        floor_snr=(2.8, 8.0),
        star_scale=(0.3, 4.0),
        galaxy_scale=(0.4, 4.0),
        sky_error=0.15,
        psf_error=0.01,
        shape=(48, 48),
        catalog_prior=sky_prior(catalogs).to_dict(),
        field_prior=field_prior(recipe).to_dict(),
    )
    training = dataclasses.replace(
        training,
        start_from='stars-galaxies',
        n_steps=n_steps,
        batch_size=32,
        learning_rate=5e-4,
        validate_every=500,
    )
    reasons = recipe.reasons | {
        'encoder': "sizes of 'stars-galaxies'",
        'density': 'not used: densities are those of the catalogue prior below',
        'background': 'not used: sky and PSF are those of the field prior below',
        'fwhm': 'not used, likewise',
        'population': 'stars and galaxies, of the catalogue prior below',
        'star_scale': 'factors on the densities of that prior',
        'sky_error': 'the sky in blank pixels is off by 0.15 of their noise',
        'psf_error': 'as for the bundled encoder',
        'start_from': 'the sizes agree, so its weights are a start',
        'n_steps': 'half an hour on one core',
    }
    return dataclasses.replace(
        recipe,
        configs=(encoder, simulation, training),
        reasons=reasons,
        # The same of all of the images.
        limits=tuple(sorted({text.partition(': ')[2] for text in recipe.limits})),
    )


def look(exposure, encoder, plot=None):
    """
    Detect the sources of a blend, and check the catalogue against its image.
    """
    catalog = detect_sources(exposure, encoder=encoder)
    names = ['x_centroid', 'y_centroid', 'flux', 'flux_err', 'galaxy_probability']
    catalog[names].pprint_all()
    print(catalog.check(exposure, rng=1))
    if plot:
        import matplotlib as mpl

        mpl.use('agg')
        from bliss_astro.plotting import plot_catalog

        axes = plot_catalog(exposure, catalog)
        axes.figure.savefig(plot, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('blends', type=Path, help='folder of the cut-outs')
    parser.add_argument('catalogs', type=Path, help='folder of the catalogues')
    parser.add_argument('-o', '--output', default='hsc.toml')
    parser.add_argument('--encoder', help='weights: look at a blend instead')
    parser.add_argument('--plot', help='and write a figure of it')
    arguments = parser.parse_args()

    paths = sorted(arguments.blends.glob('set*/*.npz'))
    exposures = [read_blend(path) for path in paths]
    pair = (round(noise_correlation(exposures), 3),) * 2
    exposures = [each.replace(noise_correlation=pair) for each in exposures]
    if arguments.encoder:
        look(exposures[-1], arguments.encoder, arguments.plot)
        return
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        recipe = make_recipe(
            exposures, names=[path.stem for path in paths], n_exposures=DEPTH
        )
    recipe.table()['fact', 'images', 'stars-galaxies'].pprint_all()
    recipe = complete(recipe, arguments.catalogs)
    recipe.write(arguments.output, overwrite=True)
    print(f'wrote {arguments.output}; next: bliss-astro train {arguments.output}')


if __name__ == '__main__':
    main()
