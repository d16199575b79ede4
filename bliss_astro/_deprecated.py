# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Exports of folders: public names, and deprecated ones with their new homes.
"""

import importlib
import pkgutil
import sys

# New path, or folder or module with ``*`` for the same name there: old paths, all below
# `bliss_astro`. Names stay importable by their old path for one release.
_OLD_PATHS = {
    '_arguments.*': 'priors.torch_generator',
    'checks.*': (
        'catalog.CatalogCheck catalog.Reconstruction catalog.SourceImage '
        'catalog.reconstruct detection.Completeness detection.completeness'
    ),
    'checks.CatalogCheck': 'catalog.CheckFinding checks.CheckFinding',
    'coadds.Coadd': 'coadds.AlignedExposure',
    'coadds._psf.*': 'coadds.AlignedPSF',
    'coadds.align_exposures': 'coadds.iter_aligned',
    'encoders.Encoder.from_pretrained': 'encoders.load_encoder',
    'encoders.Encoder.save': 'encoders.save_encoder',
    'exposures.*': 'coadds.NoiseMeasurement coadds.measure_noise',
    'flags.*': 'catalog.CatalogFlag catalog.decode_flags',
    'galaxies.GalaxyAutoencoder.available': 'galaxies.available_galaxy_models',
    'metrics.CalibrationReport': 'metrics.calibration_report',
    'metrics.ExactStarPosterior': 'metrics.exact_star_posterior',
    'metrics.ScoreTable': (
        'metrics.ClassScores metrics.CountCalibration metrics.Coverage '
        'metrics.CramerRaoBound metrics.DetectionScores metrics.LogScore '
        'metrics.RankUniformity metrics.Reliability metrics.ResidualSummary '
        'metrics.RocCurve metrics.Sharpness'
    ),
    'metrics._blends.*': 'metrics.measure_ellipticity metrics.source_snr',
    'metrics._findings.*': 'metrics.Finding',
    'metrics._inputs.*': (
        'metrics.BootstrapBands metrics.robust_sigma metrics.wilson_interval'
    ),
    'metrics._residuals.*': 'metrics.position_residuals',
    'metrics.match_catalogs': 'metrics.match_blends',
    'metrics.sharpness': 'metrics.mean_log_score',
    'plotting._calibration.*': (
        'plotting.plot_counts plotting.plot_ranks plotting.plot_reliability '
        'plotting.plot_sharpness'
    ),
    'posteriors._factors.*': (
        'posteriors.CountFactor posteriors.PositionFactor posteriors.TypeFactor'
    ),
    'posteriors._grid.*': 'posteriors.COLOURS',
    'posteriors._head.*': 'posteriors.CatalogHead posteriors.StarHead',
    'posteriors._shape_layers.*': (
        'posteriors.MixtureFactor posteriors.N_SHAPE posteriors.ShapeLayers '
        'posteriors.ellipticity_to_vector posteriors.vector_to_ellipticity'
    ),
    'posteriors._source_sequence.*': (
        'posteriors.SourceEncoders posteriors.SourceSequence posteriors.StampEncoder'
    ),
    'posteriors._tile_posterior.*': 'posteriors.sequence_loss',
    'priors.*': 'rendering.GALAXY_SHAPE_NAMES',
    'priors.CatalogPrior.fit': 'priors.fit_catalog_prior',
    'priors._catalog_prior.*': 'priors.CatalogBatch',
    'priors._field_prior.*': 'priors.FieldBatch',
    'psf.PSFModel.fit': 'psf.fit_psf',
    'psf.PSFModel.fit_stars': 'psf.fit_psf_to_stars',
    'psf.VaryingPSF': 'psf.VariablePSF',
    'psf._compare.*': 'psf.PSFComparison',
    'psf._mixture.*': (
        'psf.DEFAULT_NORMALIZATION_RADIUS psf.asymmetry_of_image psf.broaden_shape '
        'psf.describe_shape psf.elliptical_radius_squared psf.mixture_of_shape '
        'psf.normalization_of_shape psf.profile_of_shape psf.profile_with_gradient'
    ),
    'psf.read_psf': 'psf.read_psfex',
    'rendering.GalSimRenderer': 'rendering.GalSimStarRenderer',
    'rendering.TorchRenderer': 'rendering.TorchStarRenderer',
    'rendering._accuracy.*': 'rendering.check_galaxies',
    'rendering._renderers.*': (
        'rendering.GalSimGalaxyRenderer rendering.TorchGalaxyRenderer'
    ),
    'simulation.*': (
        'coadds.CoaddSimulator encoders.SimulationConfig encoders.SimulationStream '
        'exposures.BadPixelPrior'
    ),
    'simulation.SimulatedImages': (
        'coadds.CoaddBatch encoders.SceneBatch galaxies.GalaxyBatch'
    ),
    'simulation.SimulationStream': 'encoders.SceneStream',
    'simulation._camera.*': (
        'coadds.align_bilinear coadds.coadd_noise exposures.add_noise '
        'simulation.coadd_noise'
    ),
    'simulation._stream.*': (
        'galaxies.GalaxySimulationConfig galaxies.GalaxyStream '
        'simulation.GalaxyStream training.GalaxySimulationConfig'
    ),
    'surveys.sdss.*': (
        'priors.stripe82_columns psf.SDSSPSF surveys.CorrectedFrame surveys.FieldMask '
        'surveys.Frame surveys.PhotoField surveys.PsField surveys.TsField '
        'surveys.read_photoobj'
    ),
    'surveys.sdss.CorrectedFrame.read': 'surveys.sdss.read_fpc',
    'surveys.sdss.FieldMask.read': 'surveys.sdss.read_fpm',
    'surveys.sdss.Frame.read': 'surveys.sdss.read_frame',
    'surveys.sdss.PhotoField.read': 'surveys.sdss.read_photofield',
    'surveys.sdss.PsField.read': 'surveys.sdss.read_psfield',
    'surveys.sdss.TsField.read': 'surveys.sdss.read_tsfield',
    'surveys.sdss._camera.*': (
        'surveys.sdss.BANDS surveys.sdss.band_index surveys.sdss.camera_dark_variance '
        'surveys.sdss.camera_gain'
    ),
    'surveys.sdss._images.*': 'surveys.sdss.read_image',
    'surveys.sdss._masks.*': 'surveys.sdss.BAD_PLANES',
    'training.*': (
        'detection.Recipe detection.make_recipe encoders.TrainingConfig '
        'encoders.load_config encoders.train_encoder galaxies.reconstruction_report '
        'galaxies.train_galaxies'
    ),
    'training._configuration.*': (
        'galaxies.GalaxyTrainingConfig training.GalaxyTrainingConfig'
    ),
    'training._facts.*': 'detection.ImageFacts training.ImageFacts',
    'training._galaxy_report.*': 'galaxies.ReconstructionReport',
    'training.load_config': 'galaxies.load_galaxy_config',
    'units.SDSS_PIXEL_SCALE': 'surveys.sdss.PIXEL_SCALE',
}
MOVED = {
    old: new.replace('*', old.rpartition('.')[2])
    for new, paths in _OLD_PATHS.items()
    for old in paths.split()
}
# Names of the first survey were found in the folder of surveys too.
MOVED |= {
    old.replace('.sdss.', '.'): new
    for old, new in MOVED.items()
    if old.startswith('surveys.sdss.')
}


def deprecated_names(package):
    """
    Make the ``__getattr__`` (PEP 562) of a folder from which names have moved.

    Parameters
    ----------
    package : str
        The folder's ``__name__``.

    Returns
    -------
    getattr : callable
        Imports a moved name from its new home, with an
        `~astropy.utils.exceptions.AstropyDeprecationWarning` that states it.
    """

    def __getattr__(name):  # noqa: N807
        folder = package.partition('.')[2]
        new = MOVED.get(f'{folder}.{name}' if folder else name)
        if new is None:
            msg = f'module {package!r} has no attribute {name!r}'
            raise AttributeError(msg)
        # Imported here, as `import bliss_astro` alone does not import astropy.
        from astropy.utils.exceptions import AstropyDeprecationWarning

        from ._warnings import warn

        advice = f'use bliss_astro.{new}'
        if '._' in f'.{new}':
            advice = 'it is not part of the public interface'
        warn(
            f'{package}.{name} is deprecated and will be removed in the next release; '
            f'{advice}',
            AstropyDeprecationWarning,
        )
        return pkgutil.resolve_name(f'bliss_astro.{new}')

    return __getattr__


def lazy_exports(package, **modules):
    """
    Make ``__getattr__``, ``__dir__`` and ``__all__`` of a folder.

    Importing a folder then imports none of its modules, so that `detect_sources`
    loads the modules that it needs and no others.

    Parameters
    ----------
    package : str
        The folder's ``__name__``.

    **modules : str
        Module of the folder = its public names, separated by spaces.

    Returns
    -------
    getattr, dir, all : callable, callable, list of str
        For the folder's ``__init__.py``. Names that have moved warn
        (`~bliss_astro._deprecated.deprecated_names`).
    """
    homes = {name: home for home, names in modules.items() for name in names.split()}
    moved = deprecated_names(package)

    def __getattr__(name):  # noqa: N807
        if name not in homes:
            return moved(name)
        module = importlib.import_module(f'{package}.{homes[name]}')
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__():  # noqa: N807
        return sorted({*vars(sys.modules[package]), *homes})

    return __getattr__, __dir__, sorted(homes)
