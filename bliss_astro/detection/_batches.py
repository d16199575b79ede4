# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Batches of images: prepared one by one, inferred together, yielded in order.

All that turns images into posteriors goes through `detect_each`: `Encoder.infer
<bliss_astro.encoders.Encoder.infer>`, `detect_sources`, `detect_many`, `BlissFinder`
and the checks.
"""

import dataclasses

import numpy as np

from bliss_astro._arguments import check_rng
from bliss_astro._threads import use_threads
from bliss_astro._warnings import (
    CatalogCheckWarning,
    NoDetectionsWarning,
    OutOfDomainWarning,
    messages_about,
    warn,
)
from bliss_astro.catalog._meta import FactRecord

from ._bands import prepare_bands
from ._images import ImageInputs, infer_posteriors

# Pixels of the images that are worked on together: some 60 bytes each.
_PIXELS = 500_000


@dataclasses.dataclass
class _Task:
    """An image on its way through the encoder."""

    subject: str | None
    options: object
    rng: np.random.Generator
    inputs: ImageInputs
    posterior: object = None
    catalog: object = None
    models: list | None = None

    @classmethod
    def of(cls, data, options, subject):
        """All that is done before the encoder looks at an image."""
        rng = check_rng(options.rng)
        with use_threads(options.n_threads):
            encoder = options.load_encoder()
            bands = prepare_bands(data, options, encoder)
            return cls(subject, options, rng, ImageInputs.of(bands, encoder, options))

    def result(self):
        """The catalogue with its self-check, or else the posterior; and warnings."""
        options, catalog, found = self.options, self.catalog, None
        if self.models is not None:
            from bliss_astro.checks._self_check import self_check

            bands = self.inputs.bands
            own = {'cosmic_rays': bands.cosmic_rays, 'models': self.models}
            with use_threads(options.n_threads):
                found = self_check(bands.image, catalog, **own)
            catalog.meta['check'] = FactRecord(found)
        if options.keep is None:
            self.posterior._found.clear()
        # At the end, where nothing of ours stands between them and the user's filters.
        for message in self.posterior.meta.get('warnings', ()):
            warn(message, OutOfDomainWarning)
        if catalog is None:
            return self.posterior
        if len(catalog) == 0:
            text = f'no source has a probability above {options.threshold}'
            warn(text, NoDetectionsWarning)
        if found and found['text']:
            text = f'the rows do not explain all of the image: {found["text"]}'
            warn(text, CatalogCheckWarning)
        return catalog


def _tabulate(tasks):
    """Set the catalogues of some images, and the models for their self-checks."""
    for task in tasks:
        own = {'n_samples': task.options.n_samples, 'rng': task.rng}
        with messages_about(task.subject):
            task.catalog = task.posterior.at_threshold(task.options.threshold, **own)
    checked = [task for task in tasks if task.options.check]
    if checked:
        from bliss_astro.checks._self_check import render_rows

        images = [task.inputs.bands.image for task in checked]
        models = render_rows(images, [task.catalog for task in checked])
        for task, own in zip(checked, models, strict=True):
            task.models = own


def detect_each(pairs, *, tables=True, named=False, first=0):
    """
    Yield the catalogues of images with their `DetectionOptions`, or the posteriors.

    Images are taken when they are needed, so many at once as have ``_PIXELS`` pixels,
    and go through the encoder together; it must be the same for all. What was found
    before an error is yielded first. Messages name the index of their image if wanted,
    which is ``first`` for the first one.
    """

    def prepare(k, data, options):
        subject = f'image {k}' if named else None
        with messages_about(subject):
            task = _Task.of(data, options, subject)
        return task, task.inputs.bands.n_pixels

    for tasks in batches_of(pairs, prepare, first):
        _infer_together(tasks, tables)
        if tables:
            with use_threads(tasks[0].options.n_threads):
                _tabulate(tasks)
        while tasks:
            with messages_about(tasks[0].subject):
                # No longer held here, so that the caller may free it.
                done = tasks.pop(0).result()
            yield done
            del done


def batches_of(pairs, prepare, first=0):
    """
    Yield lists of images of ``_PIXELS`` in all, and raise what ends them thereafter.

    ``prepare(index, data, options)`` returns what is to be listed, and the pixels.
    """
    numbered, error = enumerate(pairs, first), None
    while error is None:
        some, n_pixels = [], 0
        try:
            while n_pixels < _PIXELS:
                k, pair = next(numbered)
                one, size = prepare(k, *pair)
                some.append(one)
                n_pixels += size
        except Exception as found:  # noqa: BLE001 (raised below)
            error = found
        if some:
            yield some
    if not isinstance(error, StopIteration):
        raise error


def _infer_together(tasks, tables):
    """Set the posteriors of some images, those of one kind computed together."""
    kinds = {}
    for task in tasks:
        kinds.setdefault(task.inputs.kind, []).append(task)
    for some in kinds.values():
        options, inputs = some[0].options, [task.inputs for task in some]
        bar = {'progress_bar': options.progress_bar, 'title': 'detecting'}
        least = options.threshold if tables or options.keep else None
        with use_threads(options.n_threads, **bar):
            found = infer_posteriors(inputs, least=least, keep=options.keep)
        for task, posterior in zip(some, found, strict=True):
            task.posterior = posterior
