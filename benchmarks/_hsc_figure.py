# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Figures of the blends and of the sources put into them.
"""

import itertools

import numpy as np

__all__ = ['draw_blends', 'draw_injections_figure']

_MARKERS = {'ours': ('o', 'C1'), 'SEP': ('s', 'C0'), 'photutils': ('^', 'C2')}
_N_SHOWN = 8
_EDGES = (22.5, 23.25, 24.0, 24.75, 25.5, 26.25)


def draw_blends(drawn, path):
    """
    The larger blends with what each method finds.

    Parameters
    ----------
    drawn : dict
        ``blends``, and ``before``: what was found, by method.

    path : path_like
        Picture to write.
    """
    from matplotlib.figure import Figure

    sizes = [blend.exposure.data.size for blend in drawn['blends']]
    shown = sorted(np.argsort(sizes)[::-1][:_N_SHOWN])
    figure = Figure(figsize=(11, 6), layout='constrained')
    axes = figure.subplots(2, _N_SHOWN // 2).ravel()
    for axis, k in zip(axes, shown, strict=False):
        blend = drawn['blends'][k]
        scaled = blend.exposure.data / np.median(blend.exposure.bkg_error)
        axis.imshow(
            np.arcsinh(scaled / 2), cmap='gray', vmin=-1, vmax=5, origin='lower'
        )
        for (name, (marker, colour)), size in zip(
            _MARKERS.items(), (90, 45, 45), strict=True
        ):
            found = drawn['before'][name][k]
            face = {'facecolors': 'none', 'edgecolors': colour}
            axis.scatter(
                found['x'], found['y'], size, marker=marker, label=name, **face
            )
        for source in blend.truth:
            axis.plot(source['x'], source['y'], 'rx', ms=5, label='put in by HSC')
        axis.set(title=blend.name, xticks=[], yticks=[])
    handles = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        handles.values(), handles, loc='outside lower center', ncols=4, frameon=False
    )
    figure.savefig(path, dpi=100)


def draw_injections_figure(drawn, path):
    """
    Flux errors and recall by magnitude, in blank and in blended places.

    Parameters
    ----------
    drawn : dict
        ``errors`` by method, ``injections``.

    path : path_like
        Picture to write.
    """
    from matplotlib.figure import Figure

    magnitude = np.array([each.magnitude for each in drawn['injections']])
    blended = np.array([each.blended for each in drawn['injections']])
    errors = drawn['errors']
    every = np.all([np.isfinite(e) for e in errors.values()], axis=0)
    figure = Figure(figsize=(9.5, 6.4), layout='constrained')
    axes = figure.subplots(2, 2, sharex=True, sharey='row')
    for column, (place, use) in enumerate((('blank', ~blended), ('blended', blended))):
        for name, error in errors.items():
            marker, colour = _MARKERS[name]
            points = []
            for low, high in itertools.pairwise(_EDGES):
                bin_ = use & (magnitude >= low) & (magnitude < high)
                both = np.abs(error[bin_ & every])
                n = max(len(both), 1)
                typical = np.median(both) if len(both) else np.nan
                # The median's error by that of a normal distribution.
                spread = 1.25 * (both.std() if len(both) else np.nan) / np.sqrt(n)
                share = np.isfinite(error[bin_]).mean() if bin_.any() else np.nan
                points.append((0.5 * (low + high), typical, spread, share))
            x, typical, spread, share = np.array(points).T
            style = {'marker': marker, 'color': colour, 'label': name}
            axes[0, column].errorbar(x, 100 * typical, 100 * spread, capsize=2, **style)
            axes[1, column].plot(x, share, **style)
        axes[0, column].set(title=f'{place} places', yscale='log')
        axes[1, column].set(xlabel='i of the source put in (AB)', ylim=(0, 1.03))
    axes[0, 0].set_ylabel('median absolute flux error (%)\nfound by all three')
    axes[1, 0].set_ylabel('recall')
    axes[0, 0].legend()
    figure.savefig(path, dpi=100)
