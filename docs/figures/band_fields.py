# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Fit of the differences between the fields of bands that come with the package.

Widths, skies, calibrations and read noises are those of headers of SDSS, a table with
the columns ``run, camcol, field, band, fwhm_arcsec, sky_counts, gain, dark_var`` and
``nmgy_per_count``; shapes of PSFs those of photoField files::

    python band_fields.py HEADERS.csv photoField-*.fits --output fields-sdss-ugriz.json
"""

import argparse

import numpy as np
from astropy.table import Table

from bliss_astro.priors import BandFields, FieldPrior
from bliss_astro.priors._fields import FieldTable, log_variables
from bliss_astro.units import MAD_TO_SIGMA

# The first is the one to which the differences are.
BANDS = {'r': 616.8, 'u': 358.4, 'g': 468.5, 'i': 748.7, 'z': 889.0}
# As the other scatters of the prior of fields.
WIDEN = 1.3


def headers(path):
    """Logarithms ``(5, n, 9)`` of fields with all five bands; NaN for shapes."""
    table = Table.read(path)
    fields = {}
    for row in table:
        key = (row['run'], row['camcol'], row['field'])
        fields.setdefault(key, {})[row['band']] = row
    rows = [field for field in fields.values() if len(field) == len(BANDS)]
    logs = np.full((len(BANDS), len(rows), 9), np.nan)
    for k, band in enumerate(BANDS):
        for n, row in enumerate(field[band] for field in rows):
            gain = row['gain']
            values = row['fwhm_arcsec'], row['sky_counts'] * gain
            values += gain / row['nmgy_per_count'], np.sqrt(row['dark_var']) * gain
            logs[k, n, [0, 6, 7, 8]] = np.log(values)
    return logs


def photofields(paths):
    """Logarithms ``(5, n, 9)`` of good fields; NaN for all but shapes."""
    priors = FieldPrior.from_photofield(paths, list(BANDS))
    tables = [FieldTable.from_table(priors[band].table) for band in BANDS]
    logs = np.stack([log_variables(table) for table in tables])
    logs[..., [0, 6, 7, 8]] = np.nan
    return logs


def clipped(logs, n_sigma=2.5):
    """Logarithms whose differences to the first band have no outliers."""
    away = logs - logs[0]
    middle = np.median(away, 1, keepdims=True)
    reach = n_sigma * MAD_TO_SIGMA * np.median(np.abs(away - middle), 1, keepdims=True)
    return logs[0] + middle + np.clip(away - middle, -reach, reach)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('headers')
    parser.add_argument('photofields', nargs='+')
    parser.add_argument('--output', required=True)
    options = parser.parse_args()
    parts = headers(options.headers), photofields(options.photofields)
    logs = np.concatenate([clipped(part) for part in parts], 1)
    prior = BandFields.of_logs(BANDS, logs, WIDEN)
    prior.save(options.output, overwrite=True)


if __name__ == '__main__':
    main()
