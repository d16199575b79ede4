# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training of encoders on simulated images.
"""

import functools
import operator

import torch
from torch.nn import functional as F

from bliss_astro._arguments import require
from bliss_astro.encoders import Encoder
from bliss_astro.encoders._filters import image_planes
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.encoders._layers import N_BAND
from bliss_astro.galaxies import GalaxyAutoencoder
from bliss_astro.posteriors._colours import N_EVIDENCE
from bliss_astro.posteriors._loss import npe_loss, sequence_loss
from bliss_astro.posteriors._source_parameters import further
from bliss_astro.simulation import SimulationStream

from ._domain import domain_of_simulation
from ._run import Trainer, train

# Distance of the seeds of fixed training sets of neighbouring seeds: a prime.
_SEED_STRIDE = 1_000_003
# Settings that decide the shapes of weights; designs and inputs may differ.
_SIZES = ('tile_size', 'n_most', 'width', 'n_blocks')
_SIZES += ('stem_width', 'head_width', 'n_components')
# Layers whose new inputs come after all others. What types add to the numbers of
# the position, and shapes to those of the type, comes last.
_NEW_INPUTS_LAST = (
    'stem_first.weight',
    'modulation.0.weight',
    'position.0.weight',
)
_NEW_TYPES_LAST = ('head.from_neighbours.weight',)


class EncoderTrainer(Trainer):
    """Training run of an encoder; `train_encoder` is its public face."""

    section = 'encoder'

    def __init__(self, configs, *, device='auto'):
        self.origin, self.half = None, configs[2].precision != 'float32'
        super().__init__(configs, device=device)
        self.average.to(memory_format=torch.channels_last)
        config, simulation, _ = configs
        name, latent_dim = simulation.galaxy_model, config.latent_dim
        if (name is None) != (latent_dim == 0):
            msg = (
                'latent_dim (of the encoder) and galaxy_model (of the simulation) go '
                f'together, got {latent_dim} and {name!r}'
            )
            raise ValueError(msg)
        galaxies = None
        if name is not None:
            galaxies = GalaxyAutoencoder.from_pretrained(name, latent_dim=latent_dim)
            for encoder in (self.model, self.average):
                encoder.use_galaxy_model(galaxies.to(self.device))
        priors = [entry.prior for entry in further(self.model.head.entries)]
        require(None not in priors, 'parameters', 'have a prior each', priors)
        self.stream = SimulationStream(
            simulation, galaxy_model=galaxies, device=self.device, priors=priors
        )

    def make_model(self):
        encoder, given = Encoder(self.configs[0]), set()
        if self.training.start_from is not None:
            self.origin, given = start_from(encoder, self.training.start_from)
        _freeze(encoder, self.training.stage, given)
        trained = {
            name.startswith('sources.')
            for name, parameter in encoder.named_parameters()
            if parameter.requires_grad
        }
        self.trains_detection, self.trains_sources = False in trained, True in trained
        return encoder.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def draw(self, n=None, *, generator=None):
        """
        A batch for training, or of n images, with all that no weights change.

        Inputs, truth, planes of the images, and fits to the truth.
        """
        size, generator = self.training.dataset_size, generator or self.generator
        if n is None and size is not None:
            # A fixed set is a fixed list of seeds: nothing need be stored.
            n_batches = max(1, size // self.training.batch_size)
            own = {'generator': self.generator, 'device': self.device}
            index = torch.randint(n_batches, (), **own)
            seed = (self.training.seed + 1) * _SEED_STRIDE + int(index)
            generator = torch.Generator(self.device).manual_seed(seed)
        n = n or self.training.batch_size
        images = self.stream.sample_batch(n, generator=generator)
        config = self.configs[0]
        sizes = {'tile_size': config.tile_size, 'n_most': config.n_most}
        inputs, catalog = training_pair(images, **sizes)
        inputs, shape = self.model.mask_inputs(inputs), catalog.count.shape
        # Once, for all layers that see it.
        inputs.description = inputs.described()
        none = inputs.image.new_zeros(shape[0], config.width, *shape[1:])
        posterior, measured = self.model.posterior(none, inputs), None
        catalog = catalog.with_ellipticity(self.model.head.entries, posterior)
        if self.trains_sources and self.training.sources_every == 1:
            measured = posterior.sequence.measure(catalog)
        with self.autocast():
            return inputs, catalog, image_planes(inputs, config), measured

    def autocast(self):
        """Region in which convolutions have the precision of the configuration."""
        own = {'dtype': torch.bfloat16, 'enabled': self.half}
        return torch.autocast(self.device.type, **own)

    def loss(self, encoder, batch):
        """Negative log-probability of the truth, and its terms."""
        return _summed([part() for part in self._losses(encoder, batch)])

    def backward(self, batch):
        """
        Add the gradients of the loss; return it and its terms.

        Encoders that follow detection have weights of their own: the thread that draws
        batches adds their gradients, where it has time.
        """
        parts = self._losses(self.model, batch)
        *parts, last = (functools.partial(_add_gradients, part) for part in parts)
        with self.batches.beside(last) as last:
            return _summed([*(part() for part in parts), last()])

    def _losses(self, encoder, batch):
        """Losses of detection and of what follows it, as functions, with terms."""
        inputs, catalog, planes, measured = batch
        trains = torch.is_grad_enabled()
        with self.autocast(), torch.set_grad_enabled(trains and self.trains_detection):
            stem = encoder.stem(inputs, (0, 0, 0, 0), planes)
            features = encoder.inner_features(inputs, stem=stem).float()
        posterior = encoder.posterior(features, inputs, half=self.half)
        losses = []
        if self.trains_detection:
            losses.append(lambda: npe_loss(posterior, catalog))
        # Validation has every term, and so has a step without others.
        due = not (trains and self.trains_detection)
        due |= self.step % self.training.sources_every == 0
        if self.trains_sources and due:
            given = posterior.sequence, catalog, measured
            losses.append(lambda: sequence_loss(*given))
        return losses

    def result(self, name):
        """
        Return the encoder with its best weights so far, on the CPU, and its card.

        The card has domain, origin and priors: weights travel without the files of
        these.
        """
        encoder = super().result(name)
        card, simulation = encoder.card, encoder.card['simulation']
        if simulation['catalog_prior'] is not None:
            simulation['catalog_prior'] = self.stream.priors['sky'].to_dict()
        if simulation['field_prior'] is not None:
            simulation['field_prior'] = self.stream.field_prior.to_dict()
        card['domain'] = domain_of_simulation(self.configs[1]).to_card()
        card['training']['started_from'] = self.origin
        return encoder


def _add_gradients(part):
    loss, terms = part()
    loss.backward()
    return loss.detach(), terms


def _summed(parts):
    """Sum of losses, and terms of all of them."""
    losses, terms = zip(*parts, strict=True)
    return sum(losses), functools.reduce(operator.or_, terms)


def _freeze(encoder, stage, given):
    """Let only the parameters of a stage be trained."""
    if stage == 'all':
        return
    if stage != 'new' and encoder.sources is None:
        raise ValueError(f'stage = {stage!r} is for an encoder with sequence = true')
    for name, parameter in encoder.named_parameters():
        own = name.startswith('sources.') == (stage == 'sources')
        parameter.requires_grad_(name not in given if stage == 'new' else own)
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        msg = "stage = 'new': the encoder of start_from has all parameters already"
        raise ValueError(msg)


def _fitted(key, value, like, config, *, new_types):
    """Weights with zeros for inputs that are new, without those that are gone."""
    if value.dim() < 2 or like[:, :1].shape != value[:, :1].shape:
        return value
    more, place = like.shape[1] - value.shape[1], value.shape[1]
    if key.startswith('sources.') and key.endswith('.mix.0.weight'):
        # Conditions stand before the features of the tile.
        place -= config.width
    elif new_types and key.startswith('head.source.') and 'hidden.weight' in key:
        # The number of sources in the tile comes last.
        place -= config.n_most + 1
    elif not key.endswith(_NEW_INPUTS_LAST + new_types * _NEW_TYPES_LAST):
        return value
    empty = torch.zeros_like(like[:, : max(0, more)])
    return torch.cat([value[:, :place], empty, value[:, place:]], 1)


def _of_types(value, n_inputs, bands):
    """
    Weights of the layer of types for some inputs, zeros for new ones.

    Those of shapes come last but the evidence of colours, which is there in several
    bands: those of the weights, and those that are wanted.
    """
    n, (own, wanted) = value.shape[1], (N_EVIDENCE * several for several in bands)
    first, evidence = value[:, : n - own], value[:, n - own :]
    more = n_inputs - wanted - first.shape[1], wanted - own
    parts = F.pad(first, (0, more[0])), F.pad(evidence, (0, more[1]))
    return torch.cat(parts, 1)


def _without_bands(key, value, width):
    """Weights of a layer without inputs of bands, the last but features of tiles."""
    if key.endswith('modulation.0.weight'):
        return value[:, :-N_BAND]
    if key.startswith('sources.') and key.endswith('.mix.0.weight'):
        return torch.cat([value[:, : -width - N_BAND], value[:, -width:]], 1)
    return value


@torch.no_grad()
def start_from(encoder, name):
    """
    Give an encoder the weights of another.

    Layers that the other lacks keep their first, random weights; new inputs of a
    layer begin with no influence, so that both give the same posterior of what
    both describe.

    The other has the same sizes. It may lack the matched filter, uncertainties,
    galaxies, their shapes, bands, or encoders that follow detection, or have shapes,
    bands, further parameters or such encoders that this one lacks. Returns its origin
    (name, hash, how many images it was trained on and where it had started from
    itself), and the names of the parameters that have its weights.
    """
    other = Encoder.from_pretrained(name)
    own, config = encoder.state_dict(), encoder.config
    new_types = config.galaxies and not other.config.galaxies
    given = {}
    fits = all(getattr(config, s) == getattr(other.config, s) for s in _SIZES)
    bands = other.config.bands, config.bands
    one_band = bands == (True, False)
    for key, value in other.state_dict().items():
        if key in own:
            if key.endswith('extended.0.weight'):
                value = _of_types(value, own[key].shape[1], bands)
            value = _without_bands(key, value, config.width) if one_band else value
            value = _fitted(key, value, own[key], config, new_types=new_types)
            fits &= value.shape == own[key].shape
            given[key] = value
        else:
            shapes_only = other.config.shapes and not config.shapes
            names = {*other.config.parameters, *(('bands', 'colour') * one_band)}
            dropped = names & set(key.split('.'))
            fits &= key.startswith('sources.') or shapes_only or bool(dropped)
    if not fits:
        msg = (
            f'start_from: the encoder {str(name)!r} has other sizes '
            f'({other.config}) than the one to be trained ({config})'
        )
        raise ValueError(msg)
    encoder.load_state_dict({**own, **given})
    training = other.card.get('training', {})
    origin = {
        'name': other.name,
        'sha256': other.card.get('sha256', ''),
        'images_seen': training.get('images_seen', 0),
        'started_from': training.get('started_from'),
    }
    return origin, set(given)


def train_encoder(config, output, *, device='auto', **options):
    """
    Train an encoder on an endless stream of simulations.

    The images are simulated as they are needed, so no data set is written;
    an interrupted run, whatever interrupted it, continues from its last
    checkpoint with ``resume=True`` (bitwise on a CPU with the same number
    of threads). Of several threads one simulates the next batch.

    Parameters
    ----------
    config : path_like or tuple
        A TOML file for `load_config`, or the three configurations.

    output : path_like
        Folder for ``checkpoint.pt``, ``log.jsonl`` and, at the end,
        ``<name>.safetensors`` with its card ``<name>.json``.

    device : str or `torch.device`, optional
        Device of the network and the simulations; by default a GPU if there is one.

    **options
        Further options:

        name : str, optional
            Name of the encoder; by default that of the configuration file.

        resume : bool, optional
            Continue from the checkpoint in ``output`` if there is one.

        overwrite : bool, optional
            Start anew even if there is one.

        max_minutes : float, optional
            Time after which the run stops, to be resumed.

        progress_bar : bool, optional
            Show progress.

    Returns
    -------
    encoder : `~bliss_astro.encoders.Encoder`
        With the best weights so far.

    Raises
    ------
    FileExistsError
        If ``output`` holds a run and neither ``resume`` nor ``overwrite`` is
        set.

    BlockingIOError
        If another training is at work in ``output``.

    ValueError
        If a setting is of another type or out of its range, or if the checkpoint
        is damaged or belongs to another configuration.

    OSError
        If the disk is full; the last checkpoint is kept.
    """
    return train(EncoderTrainer, config, output, device=device, **options)
