# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tables of the page "An image like yours", from the result of ``cameras.py``.
"""

import json

__all__ = ['write_page']


def write_page(results, docs):
    """
    Write the included file of the page, where there are results.

    Parameters
    ----------
    results, docs : `~pathlib.Path`
        Folders of the results and of the documents.

    Returns
    -------
    names : list of str
        Of the files written.
    """
    from make_docs import _list_table, _provenance

    path = results / 'cameras.json'
    if not path.is_file():
        return []
    result = json.loads(path.read_text())
    images = result['details']['images']
    rows = [
        [
            image['image'],
            ' x '.join(map(str, reversed(image['shape']))),
            image['sep'],
            image['rows'],
            f'{image["found"]} of {image["plain"]}',
            _value(image.get('flux_ratio'), '.2f'),
            _value(image.get('without_light'), '.0%'),
            f'{image["cpu"]:.0f}',
        ]
        for image in images
    ]
    header = ['image', 'pixels', 'SEP', 'rows', 'plain', 'flux', 'no light', 'CPU s']
    parts = [_provenance(result), _list_table(header, rows, '30 14 8 8 12 8 10 10')]
    said = [[image['image'], _sentences(image['warnings'])] for image in images]
    parts.append(_list_table(['image', 'warnings'], said, '25 75'))
    target = docs / 'user_guide' / 'image_like_yours_table.inc.rst'
    target.write_text('\n'.join(parts))
    return [target.name]


def _value(value, form):
    return '' if value is None else format(value, form)


def _sentences(warnings):
    """First parts of warnings, as literal text."""
    if not warnings:
        return 'none'
    parts = [text.split('; ')[0].replace('`', "'") for text in warnings]
    return ' '.join(
        f'"{part}".'.replace('*', r'\*').replace('|', r'\|') for part in parts
    )
