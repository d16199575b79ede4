# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Harness of the benchmarks: command line, error bars, targets, one results table.

A script makes a `Benchmark`, adds rows, and calls `~Benchmark.finish`, which writes
them to ``results.ecsv``, the table that the documentation reads. A row is one
measured number; ``benchmark | case | quantity | method`` is its key.
"""

import argparse
import datetime as dt
import functools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from astropy.table import Table

RESULTS = Path(__file__).with_name('results.ecsv')
OURS = 'bliss_astro'

COLUMNS = {
    'benchmark': 'Name of the script, without its ending.',
    'case': 'Sample or setting.',
    'quantity': 'Measured quantity.',
    'method': 'Method or encoder; a reference for printed values.',
    'value': 'Measured value; NaN where a paper gives words or a limit.',
    'error': 'Standard error; NaN without one.',
    'n': 'Sample size; 0 if it is not recorded.',
    'unit': 'Unit as it is printed.',
    'target': 'Target as a condition on the value; words of a paper where it is NaN.',
    'date': 'Date of the measurement.',
    'machine': 'Processor and threads.',
    'commit': 'Commit of bliss_astro; empty if it is not recorded.',
    'weights': 'Encoder and the first digits of the SHA-256 of its weights.',
}
KEY = ('benchmark', 'case', 'quantity', 'method')
_NUMBERS = {'value': float, 'error': float, 'n': int}
_FLOAT = r'[-+]?\d+\.?\d*(?:e[-+]?\d+)?'


class Benchmark:
    """
    Rows of one benchmark, with what is needed to repeat them.

    Parameters
    ----------
    name : str
        Name of the script, the column ``benchmark`` of its rows.

    description : str
        First line of the help.

    n_images : int, optional
        Default of ``--n-images``, the sample size; `None` for no such option. With
        ``--quick`` it is a twentieth, at least two.

    weights : str, optional
        Default of ``--encoder``; `None` for no such option.
    """

    def __init__(self, name, description, *, n_images=None, weights=None):
        self.name, self.rows = name, []
        self.parser = argparse.ArgumentParser(description=description)
        self.option('--quick', action='store_true', help='smallest sample, for a test')
        self.option('--threads', type=int, default=2, help='number of threads')
        self.option('--seed', type=int, default=1, help='seed of the simulations')
        self.option('-o', '--output', type=Path, help='results table to update')
        if n_images is not None:
            self.option('--n-images', type=int, default=n_images, help='sample size')
        if weights is not None:
            self.option('--encoder', default=weights, help='bundled encoder or a file')

    def option(self, *names, **settings):
        """Add an option to the command line."""
        self.parser.add_argument(*names, **settings)

    def start(self, arguments=None):
        """Parse the command line, set the threads, and return the arguments."""
        import torch

        self.arguments = self.parser.parse_args(arguments)
        if self.arguments.quick and 'n_images' in self.arguments:
            self.arguments.n_images = max(2, self.arguments.n_images // 20)
        torch.set_num_threads(self.arguments.threads)
        self._provenance = {
            'date': dt.datetime.now(dt.UTC).date().isoformat(),
            'machine': _machine(self.arguments.threads),
            'commit': _commit(),
        }
        return self.arguments

    @property
    def encoder(self):
        """The encoder of ``--encoder``."""
        from bliss_astro.encoders import Encoder

        return Encoder.from_pretrained(self.arguments.encoder)

    @property
    def rng(self):
        """A new random generator with the seed of ``--seed``."""
        return np.random.default_rng(self.arguments.seed)

    def add(self, case, quantity, value, error=np.nan, *, method=OURS, **columns):
        """
        Add one measured value.

        Parameters
        ----------
        case, quantity, method : str
            The row's key, beside the name of the benchmark.

        value, error : float
            Value and standard error. A pair as ``value`` is both.

        **columns
            Further columns: ``n``, ``unit``, ``target``, ``weights`` (name of an
            encoder; default: that of ``--encoder`` for our own rows).
        """
        if isinstance(value, tuple):
            value, error = value
        if not np.isfinite(value):
            print(f'{case} | {quantity} | {method}: too few for a value', flush=True)
            return
        encoder = columns.pop('weights', getattr(self.arguments, 'encoder', ''))
        row = {'benchmark': self.name, 'case': case, 'quantity': quantity}
        row |= {'method': method, 'value': value, 'error': error, 'n': 0}
        row |= {'unit': '', 'target': '', **self._provenance}
        row['weights'] = _hash(encoder) if encoder and method == OURS else ''
        self.rows.append(row | columns)
        print(_line(self.rows[-1]), flush=True)

    def finish(self):
        """Write the rows; those of a quick run only where ``--output`` says."""
        if self.arguments.output or not self.arguments.quick:
            path = write_results(self.rows, self.arguments.output or RESULTS)
            print(f'{len(self.rows)} rows to {path.name}')


def read_results(path=RESULTS):
    """Table of all results with the columns of `COLUMNS`."""
    table = Table.read(path, format='ascii.ecsv')
    for name in set(COLUMNS) - set(_NUMBERS):
        # Empty strings are read as masked.
        table[name] = np.ma.filled(table[name].astype(str), '')
    return table


def write_results(rows, path=RESULTS):
    """
    Merge rows into a results table: a row replaces that of the same key.

    Parameters
    ----------
    rows : list of dict
        Values by column.

    path : path-like
        Table to update; it is made if there is none.
    """
    path = Path(path)
    old = [dict(row) for row in read_results(path)] if path.is_file() else []
    merged = {tuple(row[k] for k in KEY): row for row in [*old, *rows]}
    table = Table()
    for name, description in COLUMNS.items():
        values = [row[name] for row in merged.values()]
        if name in ('value', 'error'):
            values = [float(f'{value:.6g}') for value in values]
        table[name] = np.array(values, dtype=_NUMBERS.get(name, str))
        table[name].description = description
    order = np.argsort(table['benchmark'], kind='stable')
    table[order].write(path, format='ascii.ecsv', delimiter=',', overwrite=True)
    return path


def meets(value, target):
    """
    Whether a value meets a target, `None` without one.

    Parameters
    ----------
    value : float
        Measured value.

    target : str
        ``'< 3'``, ``'<= 3'``, ``'> 3'``, ``'>= 3'`` or ``'1 to 3'``.
    """
    if not target or not np.isfinite(value):
        return None
    if match := re.fullmatch(rf'({_FLOAT}) to ({_FLOAT})', target):
        return bool(float(match[1]) <= value <= float(match[2]))
    match = re.fullmatch(rf'([<>]=?) ({_FLOAT})', target)
    if match is None:
        raise ValueError(f'target must be a condition, got {target!r}')
    compare = {
        '<': np.less,
        '<=': np.less_equal,
        '>': np.greater,
        '>=': np.greater_equal,
    }
    return bool(compare[match[1]](value, float(match[2])))


def format_row(row, *, sign='±'):
    """Value with its error and unit, rounded to what the error allows."""
    value, error = float(row['value']), float(row['error'])
    unit = f' {row["unit"]}' if row['unit'] else ''
    if not np.isfinite(value):
        return str(row['target'])
    if np.isfinite(error) and error > 0:
        # One digit of the error, two of one that begins with 1.
        digits = -int(np.floor(np.log10(error)))
        digits += error * 10.0**digits < 1.95
        digits = max(digits, 0)
        return f'{value:.{digits}f} {sign} {error:.{digits}f}{unit}'
    if value == int(value) and abs(value) < 1e7:
        return f'{value:.0f}{unit}'
    return f'{value:.3g}{unit}' if abs(value) < 1000 else f'{value:.0f}{unit}'


def share(successes, total=None):
    """Share and half of its 68 % Wilson interval, of counts or of a bool array."""
    from astropy.stats import binom_conf_interval

    if total is None:
        successes, total = np.count_nonzero(successes), np.size(successes)
    if total == 0:
        return np.nan, np.nan
    low, high = binom_conf_interval(successes, total, interval='wilson')
    return successes / total, 0.5 * float(high - low)


def median_with_error(values):
    """Median and half the distance of the order statistics one sigma around it."""
    values = np.sort(np.asarray(values, dtype=float))
    if len(values) < 2:
        return (values[0] if len(values) else np.nan), np.nan
    step = 0.5 * np.sqrt(len(values))
    places = np.clip(0.5 * (len(values) - 1) + np.array([-step, step]), 0, None)
    low, high = np.interp(places, np.arange(len(values)), values)
    return float(np.median(values)), 0.5 * float(high - low)


def quantile_width(values):
    """Half of the 16 to 84 % width, a robust standard deviation."""
    low, high = np.quantile(values, [0.16, 0.84])
    return 0.5 * (high - low)


def ratio_with_error(numerator, denominator):
    """Ratio of the sums of paired timings, with its error from their scatter."""
    a, b = np.asarray(numerator, float), np.asarray(denominator, float)
    ratio = a.sum() / b.sum()
    if len(a) < 2:
        return ratio, np.nan
    return ratio, np.std(a - ratio * b, ddof=1) / np.sqrt(len(a)) / b.mean()


def bootstrap(statistic, *arrays, n=200, seed=1):
    """
    Statistic of arrays with its bootstrap error over their first axis.

    Parameters
    ----------
    statistic : callable
        Function of the arrays that returns a float.

    *arrays : array_like
        Arrays of one length, resampled together.

    n, seed : int
        Number of resamplings, and their seed.
    """
    arrays = [np.asarray(a) for a in arrays]
    value = float(statistic(*arrays))
    rng = np.random.default_rng(seed)
    size = len(arrays[0])
    draws = [
        statistic(*(a[index] for a in arrays))
        for index in rng.integers(0, size, (n, size))
    ]
    return value, float(np.nanstd(draws))


def peak_of_process(script, task, *, threads=2):
    """
    Printed result of ``script --task JSON``, and the peak memory of its process in GB.

    Parameters
    ----------
    script : path-like
        Script to run in a process of its own.

    task : dict
        Argument of ``--task``.

    threads : int or None, optional
        Number of threads of torch and BLAS, or None for theirs.
    """
    command = [sys.executable, str(script), '--task', json.dumps(task)]
    environment = dict(os.environ)
    environment.pop('OMP_NUM_THREADS', None)
    if threads is not None:
        environment['OMP_NUM_THREADS'] = str(threads)
    with tempfile.TemporaryFile('w+') as output:
        process = subprocess.Popen(command, stdout=output, env=environment)
        # Unlike RUSAGE_CHILDREN this is the peak of this very process.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command[:2])
        output.seek(0)
        result = json.loads(output.read().splitlines()[-1])
    scale = 1e9 if sys.platform == 'darwin' else 1e6  # bytes or kB
    return result | {'peak_gb': usage.ru_maxrss / scale}


def _line(row):
    mark = {True: 'met', False: 'MISSED', None: ''}[meets(row['value'], row['target'])]
    key = ' | '.join(str(row[k]) for k in KEY)
    return f'{key}: {format_row(row)}  {row["target"]} {mark}'.rstrip()


def _machine(threads):
    model = platform.processor()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        found = re.search(r'model name\s*:\s*(.*)', info.read_text())
        model = found[1].strip() if found else model
    return f'{model}, {threads} of {os.cpu_count()} cores'


def _commit():
    from bliss_astro import __version__

    found = re.search(r'\+g([0-9a-f]{6,})', __version__)
    return found[1] if found else ''


@functools.cache
def _hash(encoder):
    from bliss_astro.encoders import Encoder

    digits = Encoder.from_pretrained(encoder).card.get('sha256', '')[:12]
    return f'{Path(encoder).stem} {digits}'.strip()
