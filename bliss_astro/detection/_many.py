# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Many images: `detect_many`, the function behind ``Encoder.infer``, options of each.
"""

import collections.abc
import dataclasses
import os

import numpy as np
from astropy.io import fits

from bliss_astro._arguments import check_integer, check_rng
from bliss_astro._warnings import messages_about

from ._detect import IMAGE_OPTIONS, KEYWORDS, DetectionOptions
from ._processes import detect_in_processes

# Keywords of which each image may have its own value.
_OF_IMAGES = (*IMAGE_OPTIONS, 'density', 'flux_min', 'population', 'bin', 'rng')
# Keywords that are about tables, and those that an encoder has itself.
_NOT_INFERRED = ('data', 'encoder', 'device', 'n_samples', 'rng', 'check')


def detect_many(images, threshold=0.5, *, n_processes=None, **kwargs):
    """
    Detect sources in many images, several of them at a time.

    The catalogues are those that `detect_sources` makes of each image. Small images
    take a fraction of the time: many go through the encoder at once, which is loaded
    once.

    Parameters
    ----------
    images : iterable
        A list of images, each of them whatever `detect_sources` takes, a cube
        ``(n, ny, nx)``, or any iterator, from which images are taken as they are
        needed. They may be of different sizes; those of one size, and in as many
        bands, are worked on together. With ``bands``, a cube ``(n, F, ny, nx)``.

    threshold : float, optional
        Smallest probability of a source.

    n_processes : int, optional
        Processes that work on batches of images, this one among them, with one thread
        each unless ``n_threads`` says otherwise; by default this one alone. The
        catalogues are the same.

    **kwargs
        Any keyword of `detect_sources`. For those that describe an image (``bandpass``
        to ``background_error``), ``density``, ``flux_min``, ``population``, ``bin`` and
        ``rng``, a list or 1D array has a value for each image, and a cube
        a map; anything else holds for all. One ``rng`` makes a seed for the draws of
        each image in turn.

    Yields
    ------
    catalog : `~bliss_astro.catalog.ProbabilisticCatalog`
        The catalogue of the next image.

    Raises
    ------
    TypeError
        If there is no such keyword, or ``images`` is one image.

    ValueError
        If a value is not allowed, or lists differ in length. Errors and warnings about
        an image begin with its index, ``image 3:``; the catalogues of the images
        before it have been yielded.

    RuntimeError
        If one of the processes was killed.

    Notes
    -----
    Some 500,000 pixels are worked on together, or one image that is larger; with
    several processes, two such batches for each of them are taken ahead. Memory
    is bounded if catalogues are not kept, or their posteriors dropped
    (`ProbabilisticCatalog.drop_posterior
    <bliss_astro.catalog.ProbabilisticCatalog.drop_posterior>`).

    Examples
    --------
    >>> from bliss_astro import CoaddSimulator, detect_many
    >>> simulator = CoaddSimulator(10)
    >>> coadds = [simulator.sample(rng=k)[0] for k in range(3)]
    >>> catalogs = list(detect_many(coadds, encoder='stars'))
    >>> len(catalogs)
    3
    """
    check_names('detect_many', kwargs, without=('data', 'threshold'))
    _check_images(images, kwargs.get('bands'))
    kwargs = {'threshold': threshold, **kwargs}
    return _run(_pairs_of(images, kwargs), n_processes)


def infer(encoder, exposures, /, *, n_processes=None, **kwargs):
    """Posteriors of one or several images: `Encoder.infer`."""
    check_names('Encoder.infer', kwargs, without=_NOT_INFERRED)
    kwargs |= {'encoder': encoder, 'device': encoder.device}
    several = _is_several(exposures, kwargs.get('bands'))
    if several and not isinstance(exposures, fits.HDUList):
        return _run(_pairs_of(exposures, kwargs), n_processes, tables=False)
    pair = exposures, DetectionOptions(**kwargs)
    return next(detect_in_processes([pair], tables=False))


def _run(pairs, n_processes, **own):
    if n_processes is not None:
        check_integer('n_processes', n_processes, 1)
    return detect_in_processes(pairs, n_processes, named=True, **own)


def _pairs_of(images, kwargs):
    """Images with their options, from keywords of which some are lists."""
    own = {name: v for name, v in kwargs.items() if _is_each(name, v)}
    options = {name: value for name, value in kwargs.items() if name not in own}
    options = DetectionOptions(**options)
    number = len(images) if isinstance(images, collections.abc.Sized) else None
    if number is not None:
        _check_lengths(own, number)
    shared = {'encoder': options.load_encoder(), 'rng': check_rng(options.rng)}
    return _pairs(images, dataclasses.replace(options, **shared), own)


def _pairs(images, options, own):
    """Images with their options; ``own`` are those of which each has its own value."""
    number = -1
    for number, data in enumerate(images):
        if any(len(values) <= number for values in own.values()):
            break
        with messages_about(f'image {number}'):
            values = {name: values[number] for name, values in own.items()}
            if options.n_samples and 'rng' not in own:
                values['rng'] = int(options.rng.integers(2**63))
            pair = data, dataclasses.replace(options, **values)
        yield pair
    _check_lengths(own, number + 1)


def _check_lengths(own, number):
    for name, values in own.items():
        if len(values) != number:
            msg = f'{name} has {len(values)} values for {number} images or more'
            raise ValueError(msg)


def _is_each(name, value):
    """Whether a value of a keyword is one of each image."""
    several = isinstance(value, np.ndarray) and value.ndim in (1, 3)
    return name in _OF_IMAGES and (isinstance(value, list) or several)


def _is_several(images, bands=None):
    """Whether images are several: a list, a cube (of bands: with 4 axes), iterator."""
    several = isinstance(images, collections.abc.Iterable)
    one = str | bytes | os.PathLike | collections.abc.Mapping
    n_axes = 3 if bands is None else 4
    return (
        several
        and not isinstance(images, one)
        and (getattr(images, 'ndim', n_axes) == n_axes)
    )


def _check_images(images, bands):
    """Raise unless images are several."""
    if not _is_several(images, bands):
        what = type(images).__name__
        if isinstance(images, np.ndarray):
            what = f'an array of shape {images.shape}'
        msg = (
            'images must be a list of images, a cube (n, ny, nx) or an iterator, got '
            f'{what}; detect_sources takes one image'
        )
        raise TypeError(msg)


def check_names(title, given, *, without):
    """Raise unless all keywords are those of `detect_sources`."""
    names = [keyword.name for keyword in KEYWORDS if keyword.name not in without]
    unknown = sorted(set(given) - set(names))
    if unknown:
        msg = f'{title} has no argument {unknown[0]!r}; it has {", ".join(names)}'
        raise TypeError(msg)
