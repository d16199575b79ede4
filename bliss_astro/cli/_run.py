# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
``bliss-astro run``: many fields in parallel.
"""

from pathlib import Path

import numpy as np

from bliss_astro._arguments import counted

from ._files import UsageError, say, shows_progress, status
from ._options import image_keywords

# Tables of files, and fields that are named before the others are counted.
_TABLES, _NAMED = ('.ecsv', '.csv'), 20


def run_run(options):
    """
    Detect the sources of many fields in parallel.

    FIELDS are images, each of them a field, of any camera; with --survey files of that
    survey, of which those of a field go together. A table has a column "file", and if
    wanted "id", "band", and options of each field, such as "psf" or "zero_point". With
    --chunk each image is a mosaic, of which chunks that overlap are fields.

    FOLDER gets the rows and a record of each field as it is done, fields.ecsv with a
    line for each, the catalogue of all, and report.html. A run that was stopped,
    whatever by, goes on when the same command is given again: fields that are done are
    skipped, those that failed or whose files have changed are done anew. Workers are
    processes of this machine, or those of a Dask cluster. The exit code is 1 if a field
    failed.
    """
    from astropy.table import QTable

    from bliss_astro.runs import run_survey, write_report

    fields, folder = _fields(options), Path(options.output).expanduser()
    status(options, f'found {counted(len(fields), "field")}')
    try:
        run_survey(
            fields,
            folder,
            client=options.scheduler,
            workers=options.workers,
            encoder=options.encoder,
            threshold=options.threshold,
            density=options.density,
            device=options.device,
            batch_size=options.batch_size,
            retries=options.retries,
            progress_bar=shows_progress(options),
            overwrite=options.overwrite,
        )
    except KeyboardInterrupt:
        msg = 'interrupted; what is done is kept, and the same command goes on with it'
        raise KeyboardInterrupt(msg) from None
    report = write_report(folder, overwrite=True)
    table = QTable.read(folder / 'fields.ecsv')
    own = {field.id for field in fields}
    failed = [row for row in table if row['status'] != 'done' and row['field'] in own]
    for row in failed[:_NAMED]:
        say(f'{row["field"]}: {row["reason"]}', label='failed')
    if len(failed) > _NAMED:
        say(f'and {len(failed) - _NAMED} more, see {folder}/fields.ecsv')
    strange = sum(bool(row['findings'] or row['warnings']) for row in table)
    off_sky = np.sum(np.isnan(table['ra']) & (table['status'] == 'done'))
    for name, text in (
        ('fields', len(fields)),
        ('done', table.meta['done']),
        ('skipped', f'{table.meta["skipped"]} (done before)'),
        ('failed', len(failed)),
        ('warned', f'{strange} (by the self-check or others, see the report)'),
        ('rows', f'{sum(table["n_rows"])} (of all fields)'),
        ('off sky', f'{off_sky} (no WCS: their rows are in fields/ID.parquet alone)'),
        ('folder', folder),
        ('report', report),
    ):
        print(f'{name:8} {text}')
    return int(bool(failed))


def _fields(options):
    """Fields that the arguments name."""
    from astropy.table import QTable

    from bliss_astro.runs import fields_of, find_fields

    where = options.fields[0] if len(options.fields) == 1 else options.fields
    given = image_keywords(options).items()
    given = {name: value for name, value in given if value is not None}
    if options.chunk:
        for name in ('bands', 'survey'):
            if getattr(options, name) not in (None, 'fits'):
                raise UsageError(f'--chunk is of mosaics: leave out --{name}')
        parts = [fields_of(path, options.chunk, **given) for path in options.fields]
        return [field for chunks in parts for field in chunks]
    if isinstance(where, str) and where.endswith(_TABLES):
        where = QTable.read(where)
    bands = options.bands
    if bands and ',' in bands:
        bands = bands.split(',')
    return find_fields(where, options.survey, bands=bands, **given)


_INPUTS = 'fields survey bands:survey chunk threshold encoder density device'
_OUTPUTS = 'output:survey overwrite:survey quiet'
COMMANDS = {
    'run': (run_run, f'{_INPUTS} workers/scheduler batch_size retries', _OUTPUTS)
}
