# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The figure of a reconstruction report.
"""

import numpy as np

__all__ = []


def draw_report(report):
    """
    Draw a `ReconstructionReport`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 7.8), layout='constrained')
    above, below = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    _draw_examples(above, report)
    _draw_scores(below, report.table[:-1])
    return figure


def _draw_examples(figure, report):
    data, model, residual = (part.numpy() for part in report.examples)
    axes = figure.subplots(3, len(data), sharex=True, sharey=True)
    names = ('data', 'model', 'residual / noise')
    for k in range(len(data)):
        noise = np.std((data - model)[k])
        top = max(5.0, float(np.arcsinh(model[k].max() / noise)))
        for row, image in enumerate((data, model)):
            shown = np.arcsinh(image[k] / noise)
            axes[row, k].imshow(shown, cmap='gray', vmin=-1.5, vmax=top)
        drawn = axes[2, k].imshow(residual[k], cmap='RdBu_r', vmin=-4, vmax=4)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.invert_yaxis()
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name)
    figure.colorbar(drawn, ax=axes[2].tolist(), shrink=0.8)


def _draw_scores(figure, table):
    axes = figure.subplots(1, 3)
    width = np.sqrt(table['snr_min'] * table['snr_max'])
    # The last bin has no meaningful middle.
    width[-1] = table['snr_min'][-1] * 1.5
    quantities = (
        (
            ('chi2', 'model'),
            ('chi2_expected', 'expected'),
            'chi-square per pixel',
            (0.97, 1.03),
        ),
        (('flux_bias', None), None, 'median flux bias', (-0.01, 0.01)),
        (('e_bias', None), None, 'ellipticity bias along the true one', (-0.01, 0.01)),
    )
    for ax, (first, second, label, band) in zip(axes, quantities, strict=True):
        ax.axhspan(*band, color='0.92')
        for curve, color in ((first, 'C0'), (second, '0.5')):
            if curve is None:
                continue
            key, name = curve
            ax.errorbar(
                width,
                table[key],
                table[f'{key}_err'],
                fmt='o-',
                ms=4,
                capsize=2,
                color=color,
                label=name,
            )
        ax.set(xscale='log', xlabel='signal-to-noise ratio', title=label)
        ax.title.set_fontsize('medium')
        ax.set_xticks([10, 20, 40, 80], labels=['10', '20', '40', '80'])
        ax.minorticks_off()
    axes[0].legend(fontsize='small', loc='lower right')
