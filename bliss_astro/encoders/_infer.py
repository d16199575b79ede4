# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Inference as a method of an encoder, which leads to catalogues and detection.
"""

from bliss_astro import _lazy


def infer(self, exposures, *, density=None, keep='marginals', **kwargs):
    """
    Infer the posterior over catalogues of one or more images.

    The step from images to posteriors of all detection: what is not given is
    estimated, large images pass block by block, small ones several at once.

    Parameters
    ----------
    exposures : `~bliss_astro.exposures.Exposure` or iterable
        One image, of any kind that `~bliss_astro.detection.detect_sources` takes,
        or several: a list of such, a cube ``(n, ny, nx)``, an iterator.

    density : float, 2D array_like or list of these, optional
        Prior density of sources per pixel above the flux floor; by default from a
        first pass.

    keep : {'marginals', 'posterior', None}, optional
        Contents of posteriors beside their exposures: marginals of sources and numbers
        by tile; features and inputs of the encoder too; or numbers by tile alone, for
        counts. The rest is computed anew from the exposure when it is needed.

    **kwargs
        Keywords of `~bliss_astro.detection.detect_sources` about the image, its
        prior and the work; ``threshold`` is the probability down to which sources
        are described at once.  For several images a list has a value for each, as
        for `~bliss_astro.detection.detect_many`.

    Returns
    -------
    posterior : `~bliss_astro.catalog.CatalogPosterior` or iterator of them
        A single posterior for one image; for several images an iterator over theirs,
        in order, which takes images as it needs them.

    Raises
    ------
    TypeError, ValueError
        As `~bliss_astro.detection.detect_sources`; for several images after the
        posteriors of those before.

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, Encoder
    >>> coadd, truth = CoaddSimulator(10).sample(rng=3)
    >>> posterior = Encoder.from_pretrained('stars').infer(coadd)
    >>> len(posterior.at_threshold(0.5)) == len(truth)
    True
    """
    return _lazy.infer(self, exposures, density=density, keep=keep, **kwargs)
