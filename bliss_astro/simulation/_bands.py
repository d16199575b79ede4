# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Several bands of simulated images: colours and conditions drawn, scenes seen in each.
"""

import dataclasses
import itertools

import numpy as np
import torch

from bliss_astro.exposures import BANDS, Band, ExposureSet
from bliss_astro.priors import ColourPrior, band_fields
from bliss_astro.priors._fields import FieldBatch
from bliss_astro.psf import PSFModel
from bliss_astro.psf._mixture import DEFAULT_NORMALIZATION_RADIUS
from bliss_astro.units import NANOMAGGY_ZERO_POINT

from ._camera import draw_dithers
from ._images import OF_SOURCES, SimulatedImages, concatenate, select
from ._sources import OUTSIDE, Sources

# Share of the images that are of one band alone, and of those whose reference is r
# where it is among the bands; other references are g, i and z.
_SINGLE_SHARE, _R_SHARE, _REFERENCES = 0.4, 0.6, 'griz'
# Surveys whose bands are drawn for fields of any telescope.
_SURVEYS = 'SDSS', 'SDSS', 'LSST', 'DECam', 'HSC'
# Conditions of a field, which the bands of a scene have each.
CONDITIONS = 'psf', 'background', 'electrons_per_nmgy', 'read_noise'
# Shares of the scenes of single exposures whose other bands are brought to the grid of
# the reference band, as those of SDSS are, and, of stars alone, whose reference band is
# brought to another grid, too; all bands of the others have one.
_RESAMPLED_SHARE, _ALL_SHARE = 0.6, 0.2
# Offsets of the other bands' grids in pixels: largest along either axis.
_LARGEST_SHIFT = 0.07


@dataclasses.dataclass
class SimulatedBands:
    """
    B simulated scenes, each seen in several bands, with their truth.

    The reference band is the first of every axis of bands; others that an image has
    follow, then those that it lacks.

    Attributes
    ----------
    images : list of F `SimulatedImages`
        Images in each band, which have positions, types and shapes of the sources in
        common. Fluxes, and the flux floor, are in electrons of the band.  Images that
        are absent are masked whole.

    bands : tensor ``(B, F, 2)``
        Natural logarithms of wavelength and width over those of r of SDSS.

    index : tensor ``(B, F)`` of int
        Number of each band in ``known``.

    present : tensor ``(B, F)`` of bool
        Which bands each image has.

    log_ratio : tensor ``(B, S, F)``
        Natural logarithm of the flux of each source in each band, absent ones too, over
        that in the reference band; 0 in unused places.

    known : tuple of str
        Names of the bands of the simulation.
    """

    images: list
    bands: torch.Tensor
    index: torch.Tensor
    present: torch.Tensor
    log_ratio: torch.Tensor
    known: tuple = ()

    def __len__(self):
        return len(self.present)

    @property
    def reference(self) -> SimulatedImages:
        """Images in the reference band."""
        return self.images[0]

    def names(self, k=0) -> list:
        """Names of the bands that an image has, the reference first."""
        index = self.index[k, self.present[k]].tolist()
        return [self.known[number] for number in index]

    def exposures(
        self,
        k=0,
        *,
        unit='nmgy',
        normalization_radius=DEFAULT_NORMALIZATION_RADIUS,
        **given,
    ):
        """
        Return an image in the bands that it has, as exposures.

        Parameters
        ----------
        k : int, optional
            Number of the image.

        unit : {'electron', 'nmgy'}, optional
            Unit of the exposures.

        normalization_radius : float, optional
            Radius in pixels within which PSFs have unit flux.

        **given
            As for `SimulatedImages.exposure`.

        Returns
        -------
        exposures : `~bliss_astro.exposures.ExposureSet`
            The bands, the reference first. Electrons are those of the reference.
        """
        ratios = self.bands[k].double().exp().cpu().numpy()
        # Two digits, as single precision has more of 1,000 nm.
        numbers = np.round(ratios * (BANDS['r'].wavelength, BANDS['r'].width), 2)
        # Bands that an image has come first.
        rows = zip(self.names(k), self.images, numbers, strict=False)
        exposures, calibration = [], {}
        for name, images, point in rows:
            psf = images.psf[k].double().cpu().numpy()
            psf = PSFModel.from_shape(psf, normalization_radius=normalization_radius)
            band = Band(name.rpartition('.')[2], *point)
            known = {'unit': unit, 'psf': psf, 'band': band}
            exposures.append(images.exposure(k, **known | given))
            if images is not self.reference and unit == 'electron':
                scale = [
                    float(v.electrons_per_nmgy[k]) for v in (self.reference, images)
                ]
                calibration[band.name] = scale[0] / scale[1]
        return ExposureSet(exposures, calibration=calibration)

    def select(self, chosen) -> 'SimulatedBands':
        """Return some of the images: a slice, indices or a boolean mask."""
        images = [part.select(chosen) for part in self.images]
        return dataclasses.replace(select(self, chosen), images=images)

    @classmethod
    def concatenate(cls, parts) -> 'SimulatedBands':
        """Join batches of the same bands, in any order of these."""
        bands = zip(*(part.images for part in parts), strict=True)
        images = [concatenate(band) for band in bands]
        return dataclasses.replace(concatenate(parts), images=images)


def choose_bands(draw, config, population, prior, has_disks):
    """Draw a set of bands, the reference first: `Bands` without sources."""
    if not config.bands:
        return Bands()
    names, most = config.bands, len(config.bands)
    chance = config.reference_shares
    if chance is None:
        chance = [float(name in _REFERENCES) for name in names]
        if not any(chance):
            chance = [1.0] * most
        elif 'r' in names and sum(chance) > 1:
            others = (1 - _R_SHARE) / (sum(chance) - 1)
            chance = [others * c for c in chance]
            chance[names.index('r')] = _R_SHARE
    counts = config.band_shares
    if counts is None:
        counts = [_SINGLE_SHARE, *[(1 - _SINGLE_SHARE) / max(most - 1, 1)] * (most - 1)]
    place = draw.unit(3 + most).tolist()
    first, n = _pick(chance, place[0]), 1 + _pick(counts, place[1])
    others = sorted(set(range(most)) - {first}, key=place[2:-1].__getitem__)
    order = (first, *sorted(others[: n - 1]), *sorted(others[n - 1 :]))
    other = population == 'stars' or config.fields == 'telescopes'
    other &= population != 'npe'
    survey = _SURVEYS[int(place[-1] * len(_SURVEYS)) if other else 0]
    own = tuple(BANDS.get(f'{survey}.{name}') or BANDS[name] for name in names)
    own = tuple(own[k] for k in order)
    real = population != 'npe' and has_disks
    place = draw.unit().item() if real else 1.0
    grid = 'others' if place < _RESAMPLED_SHARE else ''
    grid = 'all' if population == 'stars' and place < _ALL_SHARE else grid
    return Bands(n, order, own, names, prior, has_disks, grid)


def _pick(chances, place):
    """Number of an outcome, of chances in proportion, at a place from 0 to 1."""
    *steps, total = itertools.accumulate(chances)
    return sum(place * total >= step for step in steps)


@dataclasses.dataclass
class Bands:
    """
    Bands of a group of B scenes, of which the first n are seen: one by default.

    Rows of fields and of images are the bands of the first scene, then those of the
    second, and so on.
    """

    n: int = 1
    # Numbers of the bands in the names of the simulation, and the bands themselves.
    order: tuple[int, ...] = ()
    own: tuple[Band, ...] = ()
    known: tuple[str, ...] = ()
    prior: ColourPrior | None = None
    has_disks: bool = True
    # Bands of single exposures that are brought to another grid: 'others', 'all' or ''.
    resampled: str = ''
    # Colours of the sources, and shares of galaxies' disks in each band: (B, S, F).
    log_ratio: torch.Tensor | None = None
    disk_fraction: torch.Tensor | None = None
    # Offsets (B n, 2) in x and y of the bands.
    shift: torch.Tensor | None = None

    def of_scenes(self, fields):
        """Fields of the reference band."""
        return select(fields, slice(None, None, self.n)) if self.n > 1 else fields

    @property
    def key(self):
        """Bands that scenes simulated together have in common."""
        return self.n, self.order, self.own

    def draw_colours(self, draw, sources, fields):
        """
        Draw the colours of sources in images of fields.

        Those of disks too, where the shapes are of bulges and disks.
        """
        scale = fields.electrons_per_nmgy[:: self.n]
        used, is_galaxy = sources.flux > 0, sources.is_galaxy
        is_galaxy = torch.zeros_like(used) if is_galaxy is None else is_galaxy
        nmgy = torch.where(used, sources.flux / scale[:, None], 1.0)
        magnitude = NANOMAGGY_ZERO_POINT - 2.5 * torch.log10(nmgy)
        on, own = {'generator': draw.generator}, list(self.own)
        colours = self.prior.sample(magnitude, is_galaxy, own, **on)
        self.log_ratio = colours * used[..., None]
        if self.has_disks and sources.galaxy is not None:
            disk = sources.galaxy[..., 0]
            self.disk_fraction = self.prior.disk_fractions(disk, own, **on)

    def draw_fields(self, draw, fields, largest_dither, *, band='r', given=()):
        """
        Draw fields of the images, and their offsets, for fields of the scenes.

        These are of a band, or of the reference band where they are not of SDSS. The
        conditions that are given of each band, dicts of numbers, are as they are.
        """
        n, size = self.n, len(fields)
        scale = fields.electrons_per_nmgy
        scale = torch.ones_like(fields.background) if scale is None else scale
        batch = FieldBatch(fields.psf, fields.background, scale, fields.read_noise)
        options = {'band': band, 'other': fields.is_other, 'generator': draw.generator}
        drawn = vars(band_fields(batch, list(self.own[:n]), **options))
        conditions = {name: value.clone() for name, value in drawn.items()}
        for k, own in enumerate(given):
            for name, value in own.items():
                conditions[name][:, k] = conditions[name].new_tensor(value)
        conditions = {name: v.flatten(0, 1) for name, v in conditions.items()}
        if fields.is_other is not None:
            conditions['is_other'] = fields.is_other.repeat_interleave(n)
        if n > 1:
            dither = draw_dithers(draw, n * size, fields.depth, largest_dither)
            conditions['dither'] = dither
            shift = _LARGEST_SHIFT * (2 * draw.unit(size, n, 2) - 1)
            shift[:, 0] = 0.0
            self.shift = shift.flatten(0, 1)
        if self.resampled and fields.depth == 1 and (n > 1 or self.resampled == 'all'):
            dither = largest_dither * (2 * draw.unit(n * size, 1, 2) - 1)
            if self.resampled == 'others':
                dither[::n] = 0.0
            conditions['dither'] = dither
        return dataclasses.replace(fields, **conditions)

    def calibrate(self, draw, config, fields, sources):
        """Scale calibrations by a magnitude at the flux floor of stars."""
        limit = draw.uniform(config.limits, len(sources.x))
        scale = sources.flux_min * 10 ** (0.4 * (limit - NANOMAGGY_ZERO_POINT))
        fields.electrons_per_nmgy *= scale.repeat_interleave(self.n)

    def append(self, draw, sources, fields, x, y, flux, galaxy=None):
        """
        Add one source ``(B, 1)`` a scene to sources.

        Returned are `Sources` as it lies in the images ``(B n, 1)``.
        """
        sources.append(x, y, flux, galaxy)
        is_galaxy = torch.full_like(flux, galaxy is not None, dtype=torch.bool)
        if galaxy is None and sources.galaxy is not None:
            galaxy = sources.galaxy[:, :1]
        added = Sources(x, y, flux, galaxy=galaxy, is_galaxy=is_galaxy)
        if not self.own:
            return added
        own = dataclasses.replace(self)
        own.draw_colours(draw, added, fields)
        for name in ('log_ratio', 'disk_fraction'):
            if (value := getattr(own, name)) is not None:
                setattr(self, name, torch.cat([getattr(self, name), value], 1))
        return own.spread(added, fields)

    def spread(self, sources, fields):
        """Sources as they lie in each of the images, for fields of these."""
        if (n := self.n) == 1:
            return sources
        parts = {
            name: value.repeat_interleave(n, 0)
            for name, value in vars(sources).items()
            if value is not None
        }
        scale = fields.electrons_per_nmgy.view(-1, n, 1)
        ratio = self.log_ratio[..., :n].mT.exp() * (scale / scale[:, :1])
        parts['flux'] = parts['flux'] * ratio.flatten(0, 1)
        parts['x'] = parts['x'] + self.shift[:, :1]
        parts['y'] = parts['y'] + self.shift[:, 1:]
        if self.disk_fraction is not None:
            disk = self.disk_fraction[..., :n].mT.flatten(0, 1)[..., None]
            parts['galaxy'] = torch.cat([disk, parts['galaxy'][..., 1:]], -1)
        return dataclasses.replace(sources, **parts)

    def without_faint(self, sources, fields, population, unseen):
        """
        Sources without those that no band shows, to a share of the flux floor.

        That of stars alone is given.
        """
        if (n := self.n) == 1:
            return sources
        # PSFs of the bands are alike, so that their widths give their areas.
        noise = (fields.variance.sqrt() * fields.psf[:, 0]).view(-1, n)
        flux = self.spread(sources, fields).flux.unflatten(0, (-1, n))
        unseen = unseen if population == 'stars' else OUTSIDE[population][1]
        floor = unseen * sources.flux_min / noise[:, 0]
        seen = (flux / noise[..., None]).amax(1) >= floor[:, None]
        most = max(1, int(seen.sum(1).max()))
        places = (~seen).byte().argsort(dim=1, stable=True)[:, :most]
        row = torch.arange(len(places), device=places.device)[:, None]

        def kept(thing):
            values = ((name, getattr(thing, name, None)) for name in OF_SOURCES)
            return {n: v[row, places] for n, v in values if v is not None}

        used = seen[row, places]
        vars(self).update(kept(self))
        self.log_ratio = self.log_ratio * used[..., None]
        sources = dataclasses.replace(sources, **kept(sources))
        sources.flux = sources.flux * used
        return sources

    def split(self, images, sources):
        """Images ``(B n, ny, nx)`` with the truth of the scenes, `SimulatedBands`."""
        n, most, total = self.n, len(self.order), len(images)
        truth = {name: value for name, value in vars(sources).items() if name != 'flux'}
        floor = sources.flux_min
        scale = images.electrons_per_nmgy[::n]
        parts = []
        for k in range(n):
            part = images.select(slice(k, None, n))
            truth['flux_min'] = floor * part.electrons_per_nmgy / scale
            parts.append(dataclasses.replace(part, **truth))
        # Bands that are absent have the numbers of the reference, and no pixel.
        nothing, all_of_it = parts[0].data * 0, torch.ones_like(parts[0].mask)
        absent = dataclasses.replace(parts[0], data=nothing, mask=all_of_it)
        order = torch.tensor(self.order, device=images.data.device)
        description = [band.description for band in self.own]
        size = total // n
        return SimulatedBands(
            images=parts + [absent] * (most - n),
            bands=images.data.new_tensor(description).expand(size, -1, -1),
            index=order.expand(size, -1),
            present=(torch.arange(most, device=order.device) < n).expand(size, -1),
            log_ratio=self.log_ratio,
            known=self.known,
        )
