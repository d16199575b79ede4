# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Runs over many fields: from files of a survey to one catalogue.

`find_fields` lists fields as `FieldRef`, whatever survey they are of; `catalog_field`
detects the sources of one, `run_survey` those of many in parallel. `open_survey` opens
the results: one catalogue of all fields, counts over regions of the sky, maps;
`write_report` makes a page of them.
"""

from bliss_astro._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    _cluster='DASK_SETTINGS',
    _fields='FieldRef find_fields',
    _mosaics='fields_of merge_chunks',
    _open='Survey open_survey',
    _prepare='prepare_mosaic',
    _report='write_report',
    _survey='run_survey',
    _work='catalog_field',
)
