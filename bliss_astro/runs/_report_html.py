# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Parts of the page of a report: style, figures, tables, marked cut-outs, as HTML.
"""

import base64
from html import escape

from ._report_figures import draw_pixels

STYLE = """
:root { color-scheme: light; --line: #d5d9de; --soft: #f5f7f9; --ink: #1b1f24; }
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: #fff;
  max-width: 74rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.25rem;
  border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: .5rem 0; } .quiet { color: #4b535c; }
nav a { margin-right: 1rem; } a { color: #00539b; }
.numbers { display: grid; gap: .8rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.numbers div { background: var(--soft); border-radius: .4rem; padding: .6rem .8rem; }
.numbers dt { font-size: .85rem; color: #4b535c; }
.numbers dd { margin: 0; font-size: 1.35rem; font-weight: 600; }
.grid { display: grid; gap: 1.2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.card { border: 1px solid var(--line); border-radius: .4rem; padding: .8rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
.pair svg { width: 100%; display: block; } .pair image { image-rendering: pixelated; }
figure { margin: 0; } figcaption { font-size: .85rem; color: #4b535c; }
img { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; max-height: 32rem; overflow-y: auto;
  border: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; font-size: .85rem; color: #4b535c; padding: .3rem .6rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
tbody th { white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--soft); }
@media print { .scroll { max-height: none; } }
"""


def plain_text(value):
    """Plain values as text."""
    if isinstance(value, dict):
        return ', '.join(f'{key} {plain_text(part)}' for key, part in value.items())
    return str(value)


def data_url(png):
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'


def html_figure(png, alt, caption):
    """A figure with its description."""
    text = f'<figcaption>{caption}</figcaption>' if caption else ''
    return f'<figure><img src="{data_url(png)}" alt="{escape(alt)}">{text}</figure>'


def html_table(header, rows, caption, *, numbers=(), row_headers=False):
    """A table of texts; ``numbers`` are columns that are set to the right."""
    styles = [' class="number"' if k in numbers else '' for k in range(len(header))]
    head = ''.join(
        f'<th scope="col"{style}>{escape(text)}</th>'
        for text, style in zip(header, styles, strict=True)
    )
    head = '' if row_headers else f'<thead><tr>{head}</tr></thead>'
    body = []
    for row in rows:
        cells = [
            f'<td{style}>{escape(str(text))}</td>'
            for text, style in zip(row, styles, strict=True)
        ]
        cells[0] = f'<th scope="row"{styles[0]}>{escape(str(row[0]))}</th>'
        body.append(f'<tr>{"".join(cells)}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(caption)}">'
        f'<table><caption>{escape(caption)}</caption>{head}'
        f'<tbody>{"".join(body)}</tbody></table></div>'
    )


def html_pixels(image, scale, place, label):
    """Pixels with a circle, as SVG."""
    ny, nx = image.shape
    x, y = place[0] + 0.5, ny - 0.5 - place[1]
    source = data_url(draw_pixels(image, *scale))
    return (
        f'<svg viewBox="0 0 {nx} {ny}" role="img" aria-label="{escape(label)}">'
        f'<image href="{source}" width="{nx}" height="{ny}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="none" stroke="#009E73" '
        'stroke-width="0.8"/></svg>'
    )
