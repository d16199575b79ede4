# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Numbers of the populations of the real sky.

What ``CatalogPrior.fit`` gives with its defaults for the SDSS stripe 82 coadd
catalogues around fields 4263-5-119 and 3325-5-110: 1,496 rows in 0.074 square
degrees. Those of `CatalogPrior.to_dict`.
"""

__all__ = ['SKY']

SKY = {
    'stars': {
        'kind': 'MagnitudeCounts',
        'magnitude': [14.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0, 21.0, 22.0, 25.0],
        'log_density': [
            1.7169,
            1.9169,
            2.1559,
            2.3668,
            2.508,
            2.6318,
            2.8017,
            2.9944,
            3.1676,
            3.4676,
        ],
    },
    'galaxy_counts': {
        'kind': 'MagnitudeCounts',
        'magnitude': [14.0, 17.5, 18.625, 19.75, 20.875, 22.0, 25.0],
        'log_density': [-0.2337, 1.8663, 2.3585, 2.8812, 3.3805, 3.8732, 4.9532],
    },
    'galaxy_shapes': {
        'kind': 'MagnitudeShapes',
        'magnitude': [14.0, 15.8909, 17.9273, 19.9636, 22.0, 25.0],
        'log_radius': [0.6771, 0.4747, 0.2568, 0.0377, -0.1979, -0.5451],
        'radius_scatter': [0.2208, 0.2208, 0.2208, 0.2208, 0.2208, 0.2208],
        'disk_share': [0.2439, 0.2439, 0.2439, 0.317, 0.4024, 0.4024],
        'bulge_share': [0.1829, 0.1829, 0.1707, 0.1707, 0.1463, 0.1463],
        'bulge_to_disk': [0.093, 0.1099],
        'disk_axis_ratio': [0.6868, 1.2088],
        'bulge_axis_ratio': [0.4432, 1.2205],
        'axis_correlation': 0.9621,
        'radius_range': [0.1, 15.0],
        'axis_ratio_min': 0.05,
    },
}
