# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Deprecated public names: one table of old and new homes.
"""

import pkgutil

__all__ = ['MOVED', 'deprecated_names']

# Old path of a name -> new path; both below `bliss_astro`. Names stay importable by
# their old path for one release.
MOVED = {
    'priors.fit_catalog_prior': 'priors.CatalogPrior.fit',
    'rendering.GALAXY_SHAPE_NAMES': 'priors.GALAXY_SHAPE_NAMES',
    'priors.torch_generator': '_random.torch_generator',
    'catalog.CatalogCheck': 'checks.CatalogCheck',
    'catalog.CatalogFlag': 'flags.CatalogFlag',
    'catalog.Reconstruction': 'checks.Reconstruction',
    'catalog.SourceImage': 'checks.SourceImage',
    'catalog.decode_flags': 'flags.decode_flags',
    'catalog.reconstruct': 'checks.reconstruct',
    'coadds.AlignedExposure': 'coadds.Coadd',
    'coadds.AlignedPSF': 'coadds._aligned_psf.AlignedPSF',
    'coadds.NoiseMeasurement': 'exposures.NoiseMeasurement',
    'coadds.measure_noise': 'exposures.measure_noise',
    'coadds.CoaddBatch': 'simulation.SimulatedImages',
    'coadds.CoaddSimulator': 'simulation.CoaddSimulator',
    'detection.ImageFacts': 'training._facts.ImageFacts',
    'detection.Recipe': 'training.Recipe',
    'detection.make_recipe': 'training.make_recipe',
    'coadds.iter_aligned': 'coadds.align_exposures',
    'coadds.align_bilinear': 'simulation._camera.align_bilinear',
    'coadds.coadd_noise': 'simulation._camera.coadd_noise',
    'encoders.SceneBatch': 'simulation.SimulatedImages',
    'encoders.SceneStream': 'simulation.SimulationStream',
    'encoders.SimulationConfig': 'simulation.SimulationConfig',
    'encoders.SimulationStream': 'simulation.SimulationStream',
    'encoders.TrainingConfig': 'training.TrainingConfig',
    'encoders.load_encoder': 'encoders.Encoder.from_pretrained',
    'encoders.save_encoder': 'encoders.Encoder.save',
    'encoders.load_config': 'training.load_config',
    'encoders.train_encoder': 'training.train_encoder',
    'exposures.BadPixelPrior': 'simulation.BadPixelPrior',
    'exposures.add_noise': 'simulation._camera.add_noise',
    'galaxies.GalaxyBatch': 'simulation.SimulatedImages',
    'galaxies.GalaxyStream': 'simulation._stream.GalaxyStream',
    'detection.Completeness': 'checks.Completeness',
    'detection.completeness': 'checks.completeness',
    'galaxies.GalaxySimulationConfig': 'simulation._stream.GalaxySimulationConfig',
    'galaxies.GalaxyTrainingConfig': 'training._configuration.GalaxyTrainingConfig',
    'galaxies.ReconstructionReport': 'training._galaxy_report.ReconstructionReport',
    'galaxies.reconstruction_report': 'training.reconstruction_report',
    'galaxies.load_galaxy_config': 'training.load_config',
    'galaxies.train_galaxies': 'training.train_galaxies',
    'metrics.BootstrapBands': 'metrics._inputs.BootstrapBands',
    'metrics.ClassScores': 'metrics.ScoreTable',
    'metrics.CountCalibration': 'metrics.ScoreTable',
    'metrics.Coverage': 'metrics.ScoreTable',
    'metrics.CramerRaoBound': 'metrics.ScoreTable',
    'metrics.DetectionScores': 'metrics.ScoreTable',
    'metrics.Finding': 'metrics._findings.Finding',
    'metrics.LogScore': 'metrics.ScoreTable',
    'metrics.RankUniformity': 'metrics.ScoreTable',
    'metrics.Reliability': 'metrics.ScoreTable',
    'metrics.ResidualSummary': 'metrics.ScoreTable',
    'metrics.RocCurve': 'metrics.ScoreTable',
    'metrics.Sharpness': 'metrics.ScoreTable',
    'metrics.calibration_report': 'metrics.CalibrationReport',
    'metrics.exact_star_posterior': 'metrics.ExactStarPosterior',
    'metrics.match_blends': 'metrics.match_catalogs',
    'metrics.mean_log_score': 'metrics.sharpness',
    'metrics.measure_ellipticity': 'metrics._blends.measure_ellipticity',
    'metrics.position_residuals': 'metrics._residuals.position_residuals',
    'metrics.robust_sigma': 'metrics._inputs.robust_sigma',
    'metrics.source_snr': 'metrics._blends.source_snr',
    'metrics.wilson_interval': 'metrics._inputs.wilson_interval',
    'plotting.plot_counts': 'plotting._calibration.plot_counts',
    'plotting.plot_sharpness': 'plotting._calibration.plot_sharpness',
    'priors.stripe82_columns': 'surveys.sdss.stripe82_columns',
    'simulation.GalaxyStream': 'simulation._stream.GalaxyStream',
    'simulation.coadd_noise': 'simulation._camera.coadd_noise',
    'training.GalaxySimulationConfig': 'simulation._stream.GalaxySimulationConfig',
    'training.GalaxyTrainingConfig': 'training._configuration.GalaxyTrainingConfig',
    'training.ImageFacts': 'training._facts.ImageFacts',
    'galaxies.available_galaxy_models': 'galaxies.GalaxyAutoencoder.available',
    'rendering.GalSimGalaxyRenderer': 'rendering._renderers.GalSimGalaxyRenderer',
    'rendering.GalSimStarRenderer': 'rendering.GalSimRenderer',
    'rendering.TorchGalaxyRenderer': 'rendering._renderers.TorchGalaxyRenderer',
    'rendering.TorchStarRenderer': 'rendering.TorchRenderer',
    'rendering.check_galaxies': 'rendering._accuracy.check_galaxies',
    'psf.DEFAULT_NORMALIZATION_RADIUS': 'psf._mixture.DEFAULT_NORMALIZATION_RADIUS',
    'psf.SDSSPSF': 'surveys.sdss.SDSSPSF',
    'psf.VariablePSF': 'psf.VaryingPSF',
    'psf.asymmetry_of_image': 'psf._mixture.asymmetry_of_image',
    'psf.PSFComparison': 'psf._compare.PSFComparison',
    'psf.broaden_shape': 'psf._mixture.broaden_shape',
    'psf.describe_shape': 'psf._mixture.describe_shape',
    'psf.elliptical_radius_squared': 'psf._mixture.elliptical_radius_squared',
    'psf.fit_psf': 'psf.PSFModel.fit',
    'psf.fit_psf_to_stars': 'psf.PSFModel.fit_stars',
    'psf.mixture_of_shape': 'psf._mixture.mixture_of_shape',
    'psf.normalization_of_shape': 'psf._mixture.normalization_of_shape',
    'psf.profile_of_shape': 'psf._mixture.profile_of_shape',
    'psf.profile_with_gradient': 'psf._mixture.profile_with_gradient',
    'psf.read_psfex': 'psf.read_psf',
    'surveys.sdss.PIXEL_SCALE': 'units.SDSS_PIXEL_SCALE',
    'surveys.sdss.band_index': 'surveys.sdss._camera.band_index',
    'surveys.sdss.read_fpc': 'surveys.sdss.CorrectedFrame.read',
    'surveys.sdss.read_fpm': 'surveys.sdss.FieldMask.read',
    'surveys.sdss.read_frame': 'surveys.sdss.Frame.read',
    'surveys.sdss.read_image': 'surveys.sdss._images.read_image',
    'surveys.sdss.read_photofield': 'surveys.sdss.PhotoField.read',
    'surveys.sdss.read_psfield': 'surveys.sdss.PsField.read',
    'surveys.sdss.read_tsfield': 'surveys.sdss.TsField.read',
}
# All names of the first survey were found in the folder of surveys too.
for _name in (
    'BAD_PLANES',
    'BANDS',
    'CorrectedFrame',
    'FieldMask',
    'Frame',
    'PhotoField',
    'PsField',
    'TsField',
    'camera_dark_variance',
    'camera_gain',
    'read_photoobj',
):
    MOVED[f'surveys.{_name}'] = f'surveys.sdss.{_name}'
for _name in list(MOVED):
    if _name.startswith('surveys.sdss.'):
        MOVED[_name.replace('.sdss.', '.')] = MOVED[_name]

# Names that are no longer public, by the module that holds them.
_INTERNAL = {
    'posteriors._factors': 'CountFactor PositionFactor TypeFactor',
    'posteriors._grid': 'COLOURS',
    'posteriors._head': 'CatalogHead StarHead',
    'posteriors._loss': 'sequence_loss',
    'posteriors._shape_layers': 'MixtureFactor N_SHAPE ShapeLayers '
    'ellipticity_to_vector vector_to_ellipticity',
    'posteriors._source_encoders': 'SourceEncoders StampEncoder',
    'posteriors._source_sequence': 'SourceSequence',
    'priors._catalog_prior': 'CatalogBatch',
    'priors._field_prior': 'FieldBatch',
}
for _home, _names in _INTERNAL.items():
    _folder = _home.partition('._')[0]
    MOVED |= {f'{_folder}.{_name}': f'{_home}.{_name}' for _name in _names.split()}


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
