# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Settings of the documentation.

It is built nitpicky and with warnings as errors, and needs no network: links to
other projects' documentation are made only on request, see below.
"""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx_astropy.conf.v3 import *  # noqa: F403
from sphinx_astropy.conf.v3 import (
    exclude_patterns,
    extensions,
    intersphinx_mapping,
)

project = 'bliss_astro'
author = 'bliss_astro developers'
copyright = '2026, bliss_astro developers'
release = installed_version(project)
version = '.'.join(release.split('.')[:2])

sys.path.insert(0, str(Path(__file__).with_name('_ext')))
extensions += ['sphinx_design', 'sphinx_gallery.gen_gallery', 'results']
exclude_patterns += ['_build', '**.inc.rst']

# Inventories of other projects are fetched only where someone says that there
# is a network, so that no build fails for want of one.
if os.environ.get('READTHEDOCS') or os.environ.get('BLISS_ASTRO_DOCS_ONLINE'):
    intersphinx_mapping.update(
        {
            'photutils': ('https://photutils.readthedocs.io/en/stable/', None),
            'torch': ('https://docs.pytorch.org/docs/stable/', None),
        }
    )
    for unused in ('h5py', 'pythonloc', 'astropy.org'):
        intersphinx_mapping.pop(unused, None)
else:
    intersphinx_mapping.clear()

nitpicky = True
# What other projects document is not checked here; what this one does, is.
nitpick_ignore_regex = [
    (r'py:.*', pattern)
    for line in Path(__file__)
    .with_name('nitpick-exceptions.txt')
    .read_text()
    .splitlines()
    if (pattern := line.split('#')[0].strip())
]

# Scripts of `examples`: those named `plot_*` are run.
sphinx_gallery_conf = {
    'examples_dirs': '../examples',
    'gallery_dirs': 'gallery',
    'filename_pattern': '/plot_',
    'download_all_examples': False,
    'show_memory': False,
    'show_signature': False,
    'min_reported_time': 1e9,
    'plot_gallery': 'True',
    'remove_config_comments': True,
}

automodapi_inheritance_diagram = False
autodoc_typehints = 'none'

plot_formats = [('png', 150)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_rcparams = {
    'axes.labelsize': 9,
    'axes.titlesize': 10,
    'figure.figsize': (6, 4.2),
    'figure.dpi': 100,
    'font.size': 9,
    'image.cmap': 'gray_r',
    'image.origin': 'lower',
    'savefig.bbox': 'tight',
}
plot_apply_rcparams = True

html_theme = 'pydata_sphinx_theme'
html_title = f'{project} {version}'
html_static_path = ['_static']
html_css_files = ['custom.css']
html_theme_options = {
    'logo': {'text': project},
    'navbar_end': ['theme-switcher'],
    'navigation_with_keys': False,
    'secondary_sidebar_items': ['page-toc'],
    'show_toc_level': 2,
    'footer_start': ['copyright'],
    'footer_end': [],
}
html_sidebars = {'index': [], 'changes': [], 'getting_started/installation': []}
html_show_sourcelink = False
htmlhelp_basename = f'{project}doc'

linkcheck_timeout = 30
