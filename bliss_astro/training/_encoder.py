# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Training of encoders on simulated images.
"""

import contextlib

import torch

from bliss_astro.encoders import Encoder
from bliss_astro.encoders._inputs import training_pair
from bliss_astro.galaxies import GalaxyAutoencoder
from bliss_astro.posteriors._loss import npe_loss, sequence_loss
from bliss_astro.simulation import SimulationStream

from ._domain import domain_of_simulation
from ._run import Trainer, train

__all__ = ['EncoderTrainer', 'start_from', 'train_encoder']

# Distance of the seeds of fixed training sets of neighbouring seeds: a prime.
_SEED_STRIDE = 1_000_003
# Settings that decide the shapes of weights; designs and inputs may differ.
_SIZES = (
    'tile_size',
    'n_most',
    'width',
    'n_blocks',
    'stem_width',
    'head_width',
    'n_components',
)
# Layers whose new inputs come after all others. What types add to the numbers of
# the position, and shapes to those of the type, comes last.
_NEW_INPUTS_LAST = (
    'stem_first.weight',
    'modulation.0.weight',
    'position.0.weight',
    'extended.0.weight',
)


class EncoderTrainer(Trainer):
    """Training run of an encoder; `train_encoder` is its public face."""

    section = 'encoder'

    def __init__(self, configs, *, device='auto'):
        self.origin = None
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
        self.stream = SimulationStream(
            simulation, galaxy_model=galaxies, device=self.device
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

    def parameter_groups(self):
        return [{'params': list(self.model.parameters())}]

    def rates(self):
        return [self.cosine_rate(self.step, self.training.n_steps)]

    def draw(self, n=None, *, generator=None):
        """Inputs and truth of a batch for training, or of n images."""
        size, generator = self.training.dataset_size, generator or self.generator
        if n is None and size is not None:
            # A fixed set is a fixed list of seeds: nothing need be stored.
            n_batches = max(1, size // self.training.batch_size)
            index = torch.randint(
                n_batches, (), generator=self.generator, device=self.device
            )
            seed = (self.training.seed + 1) * _SEED_STRIDE + int(index)
            generator = torch.Generator(self.device).manual_seed(seed)
        images = self.stream.sample_batch(
            n or self.training.batch_size, generator=generator
        )
        config = self.configs[0]
        return training_pair(images, tile_size=config.tile_size, n_most=config.n_most)

    def loss(self, encoder, batch):
        """Negative log-probability of the truth, and its terms."""
        inputs, catalog = batch
        autocast = contextlib.nullcontext()
        if self.training.precision != 'float32':
            autocast = torch.autocast(self.device.type, dtype=torch.bfloat16)
        trains = torch.is_grad_enabled()
        with autocast, torch.set_grad_enabled(trains and self.trains_detection):
            posterior = encoder(inputs)
        loss, terms = 0.0, {}
        if self.trains_detection:
            loss, terms = npe_loss(posterior, catalog)
        # Validation has every term, and so has a step without others.
        due = not (trains and self.trains_detection)
        due |= self.step % self.training.sources_every == 0
        if self.trains_sources and due:
            further, own = sequence_loss(posterior.sequence, catalog)
            loss = loss + further
            terms |= {f'source_{name}': value for name, value in own.items()}
        return loss, terms

    def details(self, card):
        """Add domain and origin; weights travel without the files of their priors."""
        simulation = card['simulation']
        if simulation['catalog_prior'] is not None:
            simulation['catalog_prior'] = self.stream.priors['sky'].to_dict()
        if simulation['field_prior'] is not None:
            simulation['field_prior'] = self.stream.field_prior.to_dict()
        card['domain'] = domain_of_simulation(self.configs[1]).to_card()
        card['training']['started_from'] = self.origin


def _freeze(encoder, stage, given):
    """Let only the parameters of a stage be trained."""
    if stage == 'all':
        return
    if stage != 'new' and encoder.sources is None:
        msg = f'stage = {stage!r} is for an encoder with sequence = true'
        raise ValueError(msg)
    for name, parameter in encoder.named_parameters():
        follows = name.startswith('sources.')
        trained = {
            'detection': not follows,
            'sources': follows,
            'new': name not in given,
        }[stage]
        parameter.requires_grad_(trained)
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        msg = "stage = 'new': the encoder of start_from has all parameters already"
        raise ValueError(msg)


def _new_inputs_at(key, n_inputs, config, *, new_types):
    """Place of a layer's new inputs among the others, or `None` if it has none."""
    if key.startswith('sources.') and key.endswith('.mix.0.weight'):
        # Conditions stand before the features of the tile.
        return n_inputs - config.width
    if new_types and key.startswith('head.source.') and 'hidden.weight' in key:
        # The number of sources in the tile comes last.
        return n_inputs - (config.n_most + 1)
    last = key.endswith(_NEW_INPUTS_LAST)
    last |= new_types and key == 'head.from_neighbours.weight'
    return n_inputs if last else None


def _fitted(key, value, like, config, *, new_types):
    """Weights with zeros for inputs that are new, without those that are gone."""
    if value.dim() < 2 or like[:, :1].shape != value[:, :1].shape:
        return value
    more = like.shape[1] - value.shape[1]
    if more < 0 and key.endswith('extended.0.weight'):
        return value[:, :more]
    place = _new_inputs_at(key, value.shape[1], config, new_types=new_types)
    if more <= 0 or place is None:
        return value
    empty = torch.zeros_like(like[:, :more])
    return torch.cat([value[:, :place], empty, value[:, place:]], 1)


@torch.no_grad()
def start_from(encoder, name):
    """
    Give an encoder the weights of another.

    Layers that the other lacks keep their first, random weights; new inputs of a
    layer begin with no influence, so that both give the same posterior of what
    both describe.

    Parameters
    ----------
    encoder : `~bliss_astro.encoders.Encoder`
        Encoder to be trained, changed in place.

    name : str or path_like
        A bundled encoder or a file of weights, of the same sizes. It may lack the
        matched filter, uncertainties, galaxies, their shapes, or encoders that
        follow detection, or have shapes or such encoders that this one lacks.

    Returns
    -------
    origin : dict
        Name and hash of the encoder, how many images it was trained on, and where
        it had started from itself.

    given : set of str
        Names of the parameters that have its weights.

    Raises
    ------
    ValueError
        If the encoders' sizes differ.
    """
    other = Encoder.from_pretrained(name)
    own, config = encoder.state_dict(), encoder.config
    new_types = config.galaxies and not other.config.galaxies
    fits = all(getattr(config, s) == getattr(other.config, s) for s in _SIZES)
    given = {}
    for key, value in other.state_dict().items():
        if key in own:
            value = _fitted(key, value, own[key], config, new_types=new_types)
            fits &= value.shape == own[key].shape
            given[key] = value
        else:
            fits &= key.startswith('sources.') or (
                other.config.shapes and not config.shapes
            )
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


def train_encoder(
    config,
    output,
    *,
    name=None,
    device='auto',
    resume=False,
    overwrite=False,
    max_minutes=None,
    progress_bar=False,
):
    """
    Train an encoder on an endless stream of simulations.

    The images are simulated as they are needed, so no data set is written;
    an interrupted run, whatever interrupted it, continues from its last
    checkpoint with ``resume=True`` (bitwise on a CPU with the same number
    of threads).

    Parameters
    ----------
    config : path_like or tuple
        A TOML file for `load_config`, or the three configurations.

    output : path_like
        Folder for ``checkpoint.pt``, ``log.jsonl`` and, at the end,
        ``<name>.safetensors`` with its card ``<name>.json``.

    name : str, optional
        Name of the encoder; by default that of the configuration file.

    device : str or `torch.device`, optional
        Device of the network and the simulations; by default a GPU if there is one.

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
    return train(
        EncoderTrainer,
        config,
        output,
        name=name,
        resume=resume,
        overwrite=overwrite,
        max_minutes=max_minutes,
        progress_bar=progress_bar,
        device=device,
    )
