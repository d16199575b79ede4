# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Numbers of the results table in the documentation.

``:result:`fields | many fields | AUC | bliss_astro``` is one value with its error. The
directive is a table of some::

    .. results:: fields
        :rows: quantity
        :columns: method
        :case: many fields
        :quantity: AUC => area under the ROC curve; MAPE, r < 22
        :method: Patel et al. (2025) => paper; bliss_astro

Values of a key are separated by semicolons, ``=>`` gives a heading; a table has a row
for each value of ``rows`` and a column for each of ``columns``. A value that misses
its target is marked; the line below has date, machine, commit and weights.
"""

import re
import sys
from functools import cache
from itertools import product
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from docutils.statemachine import StringList

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
from harness import KEY, RESULTS, format_row, meets, read_results

SIGNS = {'>=': '≥', '<=': '≤'}


@cache
def results():
    """Rows of the results table by their keys."""
    return {tuple(row[k] for k in KEY): dict(row) for row in read_results()}


@cache
def bundled():
    """Date and hash of the weights of each bundled encoder."""
    from bliss_astro.encoders import Encoder, available_encoders

    cards = {n: Encoder.from_pretrained(n).card for n in available_encoders()}
    return {n: (c.get('date', ''), c.get('sha256', '')) for n, c in cards.items()}


def cell(row):
    """Text of a row's value, with the target where it is missed."""
    text = format_row(row)
    if meets(row['value'], row['target']) is False:
        target = row['target']
        for ascii_sign, sign in SIGNS.items():
            target = target.replace(ascii_sign, sign)
        text += f' **✗** {target}'
    return text


def describe_weights(row):
    """Name and hash of a row's weights, and whether others are bundled by now."""
    name, _, digits = row['weights'].partition(' ')
    if not name:
        return ''
    text = f'weights {name} {digits}'.strip()
    if name not in bundled():
        return text
    date, now = bundled()[name]
    same = now.startswith(digits) if digits else date <= row['date']
    return text if same else f'{text} (**older than the bundled ones**)'


def provenance(rows):
    """Line about date, machine, commit and weights of some rows."""
    found = {}
    for row in rows:
        if row['machine'] or row['commit']:
            key = (row['date'], row['machine'], row['commit'])
            found.setdefault(key, []).append(describe_weights(row))
    parts = []
    for (date, machine, commit), weights in found.items():
        commit = commit and f'commit {commit}'
        words = [date, machine, commit, *dict.fromkeys(weights)]
        parts.append(', '.join(word for word in words if word))
    missed = any(meets(r['value'], r['target']) is False for r in rows)
    parts += ['✗: target that is missed'] * missed
    return '; '.join(parts) + '.'


class Results(Directive):
    """Table of rows of the results table."""

    required_arguments = 1
    option_spec = dict.fromkeys(
        ('rows', 'columns', 'case', 'quantity', 'method', 'head', 'widths'),
        directives.unchanged_required,
    )

    def _axis(self, name):
        """Keys and headings of an axis, which may be made of two key columns."""
        keys = [key.strip() for key in self.options[name].split(',')]
        values = [
            [part.partition('=>')[::2] for part in self.options[key].split(';')]
            for key in keys
        ]
        for combination in product(*values):
            names = [value.strip() for value, _ in combination]
            texts = [(heading or value).strip() for value, heading in combination]
            yield dict(zip(keys, names, strict=True)), texts

    def run(self):
        """Nodes of the table and of the line about the measurement."""
        fixed = {k: self.options.get(k, '').strip() for k in KEY[1:]}
        fixed['benchmark'] = self.arguments[0]
        columns = list(self._axis('columns'))
        n_stub = self.options['rows'].count(',') + 1
        stub = [word.strip() for word in self.options.get('head', '').split(';')]
        stub = (stub + [''] * n_stub)[:n_stub]
        lines = [[*stub, *(' '.join(texts) for _, texts in columns)]]
        used = []
        for row_keys, texts in self._axis('rows'):
            found = [self._find(fixed | row_keys | k) for k, _ in columns]
            if not any(found) and n_stub > 1:
                continue
            if not any(found):
                raise self.error(f'no results of {fixed | row_keys} in {RESULTS.name}')
            used += [row for row in found if row]
            lines.append([*texts, *(cell(row) if row else '' for row in found)])
        keep = [
            k for k, column in enumerate(zip(*lines, strict=True)) if any(column[1:])
        ]
        return self._parse([[line[k] for k in keep] for line in lines], used)

    def _find(self, keys):
        return results().get(tuple(keys[k] for k in KEY))

    def _parse(self, lines, used):
        text = ['.. list-table::', '    :header-rows: 1', '    :class: results']
        if 'widths' in self.options:
            text.append(f'    :widths: {self.options["widths"]}')
        text.append('')
        for line in lines:
            text += [f'    {"  -" if k else "* -"} {c}' for k, c in enumerate(line)]
        text += ['', '.. rst-class:: small', '', provenance(used), '']
        node = nodes.container()
        self.state.nested_parse(StringList(text, source='results'), 0, node)
        return node.children


def result_role(name, rawtext, text, lineno, inliner, options=None, content=()):
    """Role for one value with its error."""
    key = tuple(part.strip() for part in text.split('|'))
    if key not in results():
        message = inliner.reporter.error(f'no result {text!r}', line=lineno)
        return [inliner.problematic(rawtext, rawtext, message)], [message]
    return [nodes.inline(rawtext, format_row(results()[key]))], []


def setup(app):
    """Register the role and the directive."""
    app.add_directive('results', Results)
    app.add_role('result', result_role)
    app.connect('env-get-outdated', _outdated)
    return {'parallel_read_safe': True}


def _outdated(app, env, added, changed, removed):
    """Pages with results whose last reading is older than the table."""
    stamp = RESULTS.stat().st_mtime * 1e6
    return [
        name
        for name, read in env.all_docs.items()
        if read < stamp
        and re.search('results::|:result:', Path(env.doc2path(name)).read_text())
    ]
