# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Warnings of the package.

All of them subclass `~astropy.utils.exceptions.AstropyUserWarning`, so that
the filters that astronomers already have catch them.
"""

import contextlib
import contextvars
import os
import sys
import threading
import warnings
from pathlib import Path

from astropy.utils.exceptions import AstropyUserWarning


class OutOfDomainWarning(AstropyUserWarning):
    """
    An image lies outside the range that its encoder was trained on.

    The measurement is still made, and the rows concerned carry a flag, but
    nothing vouches for its probabilities or errors.
    """


class CatalogCheckWarning(AstropyUserWarning):
    """
    The rows of a catalogue do not explain the image that they were found in.

    The residual holds sources without a row, rows have no light, or their
    fluxes differ from those in apertures; ``catalog.meta['check']`` has the numbers.
    """


class NoDetectionsWarning(AstropyUserWarning):
    """
    No source passed the threshold, so the catalogue has no rows.
    """


class PosteriorDroppedWarning(AstropyUserWarning):
    """
    An operation or a file format could not keep the posterior of a catalogue.

    The rows and their columns are unharmed; whatever needs the joint
    posterior (samples, expected counts) is no longer available.
    """


# -- warnings in threads ---------------------------------------------------------

_HOME = Path(__file__).parent
# What may stand between a user's line and this package: readers of astropy, and the
# decorators and contexts of others.
_BETWEEN = {'astropy', 'contextlib', 'functools', 'numpy', 'torch'}
# Kinds of warnings that the work in progress keeps to itself.
_MUTED = contextvars.ContextVar('muted', default=())
# What the work in progress is about, where one of several is.
_SUBJECT = contextvars.ContextVar('subject', default=None)
# List of warnings to be shown later, where there is one.
_KEPT = contextvars.ContextVar('kept', default=None)


@contextlib.contextmanager
def mute_warnings(*categories):
    """Keep `warn` from showing the package's own warnings of some kinds."""
    token = _MUTED.set((*_MUTED.get(), *categories))
    try:
        yield
    finally:
        _MUTED.reset(token)


@contextlib.contextmanager
def messages_about(subject):
    """
    Begin the messages of `warn`, and of errors, with a subject; None for none.

    Inside of another one, it follows that: ``image 3: band 'g'``.
    """
    outer = _SUBJECT.get()
    whole = subject if None in (outer, subject) else f'{outer}: {subject}'
    token = _SUBJECT.set(whole)
    try:
        yield
    except Exception as error:
        if subject is not None and [*map(type, error.args)] == [str]:
            # A warning that filters turn into an error has it already.
            text = error.args[0].removeprefix(f'{whole}: ')
            error.args = (f'{subject}: {text}',)
        elif subject is not None:
            error.add_note(subject)
        raise
    finally:
        _SUBJECT.reset(token)


@contextlib.contextmanager
def keep_warnings(*, of_others=False):
    """
    Keep warnings for later: a list of subjects, texts and classes.

    Those of `warn`; where there is no user, in a process for it, of other packages too.
    """
    kept = []
    token = _KEPT.set(kept)
    with warnings.catch_warnings() if of_others else contextlib.nullcontext():
        if of_others:
            warnings.simplefilter('always')
            # What Python shows to developers alone.
            for category in (DeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter('ignore', category)
            warnings.showwarning = lambda message, category, *_: kept.append(
                (_SUBJECT.get(), str(message), category)
            )
        try:
            yield kept
        finally:
            _KEPT.reset(token)


def take_warnings(kept, subject=None):
    """
    Take warnings out of a list of `keep_warnings`, and return them.

    Those about a subject, or a part of it, and those about none; by default all.
    """
    names = (None, subject)
    own = [
        item
        for item in kept
        if subject is None or item[0] in names or item[0].startswith(f'{subject}: ')
    ]
    kept[:] = [item for item in kept if item not in own]
    return own


def warn(message, category=AstropyUserWarning):
    """Warn in the name of the user's line, unless `mute_warnings` says otherwise."""
    if not issubclass(category, _MUTED.get()):
        subject, kept = _SUBJECT.get(), _KEPT.get()
        if kept is not None:
            kept.append((subject, message, category))
            return
        message = message if subject is None else f'{subject}: {message}'
        warnings.warn(message, category, stacklevel=_user_stacklevel())


def show_warnings(kept):
    """Show warnings that `keep_warnings` kept."""
    for subject, text, category in kept:
        with messages_about(subject):
            warn(text, category)


def _user_stacklevel():
    """Stack level, for the caller, of the first line that is the user's own."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _between(frame):
        frame, level = frame.f_back, level + 1
    return level


def _between(frame):
    """Whether a frame is this package's, or of what stands between it and its user."""
    name = frame.f_globals.get('__name__', '').partition('.')[0]
    ours = Path(frame.f_code.co_filename).is_relative_to(_HOME)
    return ours or name in _BETWEEN


class _Collector:
    """Stands in a filter for text and class of a warning; matches in one thread."""

    def __init__(self, category):
        self.category, self.thread = category, threading.get_ident()
        self.texts, self.text = [], None

    def match(self, text):
        """Whether the text matches, which is looked at first."""
        own = threading.get_ident() == self.thread
        if own:
            self.text = text
        return own

    def __subclasscheck__(self, category):
        own = threading.get_ident() == self.thread
        if not (own and issubclass(category, self.category)):
            return False
        self.texts.append(self.text)
        return True


# Held while other packages work that replace the filters themselves.
_LOCK = threading.RLock()


def _after_fork():
    global _LOCK  # noqa: PLW0603 (another thread may have held it)
    _LOCK = threading.RLock()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def collect_warnings(category=Warning):
    """
    Keep the warnings of other packages from the user, and collect their texts.

    Several threads inside of `warnings.catch_warnings`, which replaces the filters of
    the whole process, leave some of its filters behind. Here a filter that matches in
    this thread alone is put in front of the others and taken away, and no two threads
    are inside at once, because photutils and astropy use `~warnings.catch_warnings`.
    """
    with _LOCK:
        collector = _Collector(category)
        item = ('ignore', collector, collector, None, 0)
        warnings.filters.insert(0, item)
        # What was shown once elsewhere is to be collected here all the same.
        _forget_shown()
        try:
            yield collector.texts
        finally:
            collector.thread = None
            if item in warnings.filters:
                warnings.filters.remove(item)


def _forget_shown():
    """Invalidate the registries of warnings that are shown but once."""
    name = '_filters_mutated'
    mutated = getattr(warnings, name, None) or getattr(warnings, f'{name}_lock_held')
    with getattr(warnings, '_lock', None) or contextlib.nullcontext():
        mutated()
