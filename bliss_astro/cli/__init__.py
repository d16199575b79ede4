# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Command line: ``bliss-astro demo, detect, run, simulate, evaluate, train, encoders``.

Each command is a thin layer over public functions of the package. Only the
results go to the standard output, everything else to the standard error.
"""

import argparse
import os
import sys
import warnings

import bliss_astro

from . import _detect, _evaluate, _run, _simulate, _train
from ._files import PROGRAM, UsageError, say
from ._options import add_command, name_options

__all__ = ['main']

_MODULES = (_simulate, _detect, _run, _evaluate, _train)

_EPILOG = """\
Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.
Results go to the standard output, progress and warnings to the standard error.
"""


def main(args=None):
    """
    Run the command line.

    Parameters
    ----------
    args : list of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    code : int
        Exit code: 0 success, 1 failure, 2 wrong usage, 130 interrupted
        by Ctrl-C, 141 if the reader of the standard output went away.

    Raises
    ------
    SystemExit
        By the parser, for ``--help``, ``--version`` and unknown or missing
        arguments.

    Examples
    --------
    >>> from bliss_astro.cli import main
    >>> main(['encoders', 'stars', '--field', 'name'])
    stars
    0
    """
    options = _parser().parse_args(args)
    with warnings.catch_warnings():
        _show_warnings_in_one_line(options)
        try:
            code = options.run(options) or 0
            sys.stdout.flush()
        except BrokenPipeError:
            return _close_stdout()
        except KeyboardInterrupt as stop:
            say(str(stop) or 'interrupted')
            return 130
        except UsageError as error:
            say(f'{error} (see {PROGRAM} {options.command} --help)', label='error')
            return 2
        except Exception as error:
            # A shell user gets one line, whatever the error.
            if options.traceback:
                raise
            say(_one_line(error, options), label='error')
            return 1
    return code


def _parser():
    """Make the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description='Probabilistic catalogues of astronomical images.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--version', action='version', version=f'{PROGRAM} {bliss_astro.__version__}'
    )
    parser.add_argument(
        '--traceback', action='store_true', help='show the traceback of an error'
    )
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for module in _MODULES:
        for name, entry in module.COMMANDS.items():
            add_command(commands, name, *entry)
    return parser


def _show_warnings_in_one_line(options):
    """Print the package's warnings as one line each, and none of them twice."""
    from astropy.utils.exceptions import AstropyUserWarning

    seen = set()

    def show(message, category, filename, lineno, file=None, line=None):
        text = name_options(' '.join(str(message).split()), options)
        if text not in seen:
            seen.add(text)
            say(f'{category.__name__}: {text}', label='warning')

    warnings.simplefilter('always', AstropyUserWarning)
    warnings.showwarning = show


def _one_line(error, options):
    """Write an error in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f'{error.filename}: {error.strerror}'
    text = name_options(' '.join(str(error).split()), options)
    if isinstance(error, OSError | ValueError) and text:
        return text
    # Others were not written for a person at a shell; their kind helps.
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _close_stdout():
    """Let go of a closed pipe without a message, as ``head`` and ``less`` expect."""
    # Otherwise the interpreter flushes it once more at exit, and complains.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return 141
