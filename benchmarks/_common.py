# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
What the benchmarks share: arguments, rows of numbers, reports.
"""

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

__all__ = [
    'Report',
    'Row',
    'in_subprocess',
    'make_parser',
    'ratio_with_error',
    'share_with_error',
]

_PACKAGES = ('bliss_astro', 'numpy', 'scipy', 'torch', 'astropy', 'photutils', 'galsim')


@dataclass
class Row:
    """
    One measured number.

    Parameters
    ----------
    what : str
        What was measured.

    measured, error : float
        The number and its standard error (`None` where it has none).

    target : str
        What it should reach, for people; empty if there is no target.

    low, high : float or None
        The same as an allowed range.

    n : int or None
        Size of the sample behind it.
    """

    what: str
    measured: float
    error: float | None = None
    target: str = ''
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def passed(self):
        """Whether the target is met, or `None` without one."""
        if self.low is None and self.high is None:
            return None
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        return bool(low <= self.measured <= high)


class Report:
    """
    The rows of one benchmark with all that is needed to repeat it.

    Parameters
    ----------
    name : str
        Name of the script.

    title : str
        One line on what it measures.

    arguments : `argparse.Namespace`
        From `make_parser`.
    """

    def __init__(self, name, title, arguments):
        self.name, self.title, self.arguments = name, title, arguments
        self.rows = []
        self.details = {}

    def add(self, what, measured, error=None, **kwargs):
        """Add a row; see `Row`."""
        error = None if error is None else float(error)
        self.rows.append(Row(what, float(measured), error, **kwargs))

    def show(self):
        """Print the table."""
        width = max([len(row.what) for row in self.rows] + [10])
        print(f'\n{self.title}')
        print(f'{"":{width}}  {"target":>16}  {"measured":>11}  {"+-":>9}')
        for row in self.rows:
            error = '' if row.error is None else f'{row.error:.2g}'
            mark = {True: 'yes', False: 'NO', None: ''}[row.passed]
            print(
                f'{row.what:{width}}  {row.target:>16}  {row.measured:>11.4g}  '
                f'{error:>9}  {mark}'
            )

    def save(self):
        """Write the JSON file and say where."""
        output = self.arguments.output
        if output is None:
            folder = Path(__file__).parent / 'results'
            suffix = '-quick' if self.arguments.quick else ''
            output = folder / f'{self.name}{suffix}.json'
        output = Path(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        content = {
            'benchmark': self.name,
            'title': self.title,
            'command': _command(),
            'quick': bool(self.arguments.quick),
            'date': dt.datetime.now(dt.UTC).date().isoformat(),
            'machine': _machine(self.arguments.threads),
            'versions': _versions(),
            'weights': _weights(),
            'rows': [asdict(row) | {'passed': row.passed} for row in self.rows],
            'details': self.details,
        }
        text = json.dumps(_plain(content), indent=1, allow_nan=False)
        output.write_text(text + '\n')
        print(f'\nwritten: {output.name}')

    def finish(self):
        """Print and write everything."""
        self.show()
        self.save()


def make_parser(description, *, n_images=None):
    """
    Parser with the options that every benchmark has.

    Parameters
    ----------
    description : str
        First line of the help.

    n_images : int, optional
        Default of ``--n-images``; without it there is no such option.

    Returns
    -------
    parser : `argparse.ArgumentParser`
        More options may be added.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        '--quick', action='store_true', help='a small run that shows that it works'
    )
    parser.add_argument(
        '--threads', type=int, default=2, help='cores to use (default: 2)'
    )
    parser.add_argument('-o', '--output', help='JSON file to write')
    if n_images is not None:
        parser.add_argument(
            '--n-images', type=int, default=n_images, help=f'default: {n_images}'
        )
    return parser


def share_with_error(success, total):
    """A share with its binomial error (half a Wilson interval)."""
    from bliss_astro.metrics import wilson_interval

    if total == 0:
        return np.nan, np.nan
    low, high = wilson_interval(success, total)
    return success / total, 0.5 * float(high - low)


def ratio_with_error(numerator, denominator):
    """Ratio of the sums of paired timings, with its error from their scatter."""
    a, b = np.asarray(numerator, float), np.asarray(denominator, float)
    ratio = a.sum() / b.sum()
    if len(a) < 2:
        return ratio, np.nan
    scatter = np.std(a - ratio * b, ddof=1) / np.sqrt(len(a))
    return ratio, scatter / b.mean()


def _command():
    # Places of files are nobody's business.
    words = [Path(w).name if os.sep in w else w for w in sys.argv[1:]]
    return ' '.join([f'python benchmarks/{Path(sys.argv[0]).name}', *words])


def _machine(threads):
    model = platform.processor()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                model = line.split(':', 1)[1].strip()
                break
    return {'cpu': model, 'cores': os.cpu_count(), 'threads': threads}


def _versions():
    found = {'python': platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name == 'bliss_astro':
                from bliss_astro import __version__

                found[name] = __version__
    return found


def _weights():
    """Hashes of the bundled encoders, which change more often than versions."""
    from bliss_astro.encoders import Encoder, available_encoders

    return {
        name: Encoder.from_pretrained(name).card.get('sha256', '')[:12]
        for name in available_encoders()
    }


def _plain(value):
    # What JSON can hold; not-a-number becomes null.
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return float(f'{value:.6g}') if np.isfinite(value) else None
    return value


def in_subprocess(script, task):
    """What ``script --task`` prints, in a process of its own, and its peak in GB."""
    environment = os.environ | {'OMP_NUM_THREADS': str(task['threads'])}
    command = [sys.executable, str(script), '--task', json.dumps(task)]
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
