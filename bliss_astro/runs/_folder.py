# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Folder of a run: made, of no other run, with the provenance of what is in it.
"""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

from bliss_astro._arguments import must
from bliss_astro._atomic import atomic_write
from bliss_astro.catalog._meta import default_meta
from bliss_astro.encoders import Encoder

from ._field import Job

# Files and folders of a run.
_PARTS = ('fields', 'catalog', 'fields.ecsv', 'encoder.safetensors', 'encoder.json')
_PARTS += ('mosaics', 'depth.fits', 'completeness.fits', 'report.html', 'run.json')


def make_folder(output):
    """Path of the folder, made if need be; an error if it is of anything but a run."""
    output = Path(output).expanduser().absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
        # os.access is wrong for some network folders, and for root.
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        allowed = 'be a folder, or the name of a new one, that can be written'
        got = f'{str(output)!r} ({error.strerror})'
        raise type(error)(must('output', allowed, got)) from error
    names = {path.name for path in output.iterdir()} - {*_PARTS, '.lock'}
    # Those of a process that was killed while it wrote are removed later.
    strange = sorted(name for name in names if not name.startswith('.tmp-'))
    if strange and not (output / 'run.json').is_file():
        allowed = 'be a new folder or that of a run'
        got = f'{str(output)!r} with other files: {", ".join(strange[:3])}'
        raise FileExistsError(must('output', allowed, got))
    return output


def write_provenance(output, encoder, options, overwrite):
    """Write the provenance of a run, unless it is there; return its job."""
    with tempfile.TemporaryDirectory() as folder:
        path = encoder
        if isinstance(encoder, Encoder):
            path = Path(folder, 'encoder.safetensors')
            encoder.save(path)
        job = Job(path, options)
    run = default_meta() | {'encoder': job.name} | job.provenance
    old = None
    with contextlib.suppress(OSError, ValueError):
        old = json.loads((output / 'run.json').read_text())
    differs = _differences(old, run) if old else []
    if differs and not overwrite:
        msg = (
            f'the folder {output} holds another run: {"; ".join(differs)}. Take '
            'another folder, or pass overwrite=True to delete that run.'
        )
        raise FileExistsError(msg)
    if differs:
        # The provenance last: all that is left before was of that run.
        for path in (output / name for name in _PARTS):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (output / 'fields').mkdir(exist_ok=True)
    if isinstance(encoder, Encoder):
        job.encoder = str(output / 'encoder.safetensors')
        encoder.save(job.encoder, overwrite=True)
    if not old or differs:
        with atomic_write(output / 'run.json', overwrite=True) as path:
            path.write_text(json.dumps(run, indent=1))
    # Files of processes that were killed while they wrote.
    for path in [*(output / 'fields').glob('.tmp-*'), *output.glob('.tmp-*')]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return job


def _differences(old, new):
    """How the provenance of a run differs from that of another, in words."""

    def parts(run):
        version, digest = run['version'].get('bliss_astro'), run['encoder_sha256']
        encoder = f'{run["encoder"]} ({digest[:12]})'
        return {'bliss_astro': version, 'encoder': encoder} | run['options']

    old, new = parts(old), parts(new)
    return [
        f'{name} {old.get(name)}, not {new.get(name)}'
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
