# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of training configurations.
"""

import dataclasses
import tomllib
from pathlib import Path

import pytest

import bliss_astro
from bliss_astro.encoders import Encoder, EncoderConfig
from bliss_astro.simulation import SimulationConfig
from bliss_astro.training import TrainingConfig, load_config, train_encoder

CONFIGS = Path(bliss_astro.__file__).parent / 'data' / 'configs'


class TestConfig:
    def write(self, folder, text):
        path = folder / 'config.toml'
        path.write_text(text)
        return path

    # The galaxy model is configured in sections of its own.
    @pytest.mark.parametrize(
        'path',
        sorted(p for p in CONFIGS.glob('*.toml') if p.stem != 'galaxies'),
        ids=lambda p: p.stem,
    )
    def test_bundled(self, path):
        encoder, simulation, training = load_config(path)
        assert isinstance(encoder, EncoderConfig)
        assert isinstance(simulation, SimulationConfig)
        assert isinstance(training, TrainingConfig)
        Encoder(encoder)

    def test_sequence_is_of_one_band(self):
        """Images of the sequence are those of the default, in the reference band."""
        paths = (CONFIGS / f'stars-galaxies{name}.toml' for name in ('', '-sequence'))
        (default, simulation, _), (sequence, one, _) = map(load_config, paths)
        own = {'bands': False, 'shapes_only': False}
        assert sequence == dataclasses.replace(default, **own)
        assert one == dataclasses.replace(simulation, bands=())

    def test_defaults(self, tmp_path):
        configs = load_config(self.write(tmp_path, ''))
        assert configs == (EncoderConfig(), SimulationConfig(), TrainingConfig())

    def test_values(self, tmp_path):
        text = (
            '[encoder]\nwidth = 8\n[simulation]\nshape = [32, 40]\n[training]\nseed = 5'
        )
        encoder, simulation, training = load_config(self.write(tmp_path, text))
        assert encoder.width == 8
        assert simulation.shape == (32, 40)
        assert training.seed == 5

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('[encoder', 'not valid TOML'),
            ('[network]\nwidth = 3', "unknown section 'network'"),
            ('[encoder]\nwdith = 3', r"in \[encoder\], unknown setting 'wdith'"),
            ('[encoder]\ntile_size = 5', 'tile_size must be one of 2, 4'),
            ('[training]\nn_steps = 0', 'n_steps must be a positive integer'),
            ('[training]\nn_steps = "many"', 'n_steps must be an integer'),
            ('[training]\nprecision = "half"', 'precision must be'),
            ('[simulation]\npsf = "round"', 'psf must be'),
            ('[simulation]\nbackground = 865.0', r'in \[simulation\]'),
            ('encoder = 3', r'encoder must be a section'),
        ],
    )
    def test_errors(self, tmp_path, text, message):
        path = self.write(tmp_path, text)
        with pytest.raises(ValueError, match=message) as error:
            load_config(path)
        assert 'config.toml' in str(error.value)

    @pytest.mark.parametrize(
        ('kind', 'section', 'name'),
        [
            (kind, section, field.name)
            for kind, section in (
                (EncoderConfig, 'encoder'),
                (SimulationConfig, 'simulation'),
                (TrainingConfig, 'training'),
            )
            for field in dataclasses.fields(kind)
        ],
    )
    def test_type_of_every_setting(self, tmp_path, kind, section, name):
        """
        A value of another type is refused before anything is computed.
        """
        default = getattr(kind(), name)
        for wrong in ('"x"', 'true', '3', '[1.5]', '[1, "x"]', 'nan'):
            value = tomllib.loads(f'v = {wrong}')['v']
            number = type(value) is int and isinstance(default, int | float | None)
            if type(value) is type(default) or (number and value is not True):
                continue
            path = self.write(tmp_path, f'[{section}]\n{name} = {wrong}')
            message = rf'config\.toml: in \[{section}\], .*\b{name}\b'
            with pytest.raises(ValueError, match=message):
                load_config(path)

    @pytest.mark.parametrize(
        ('section', 'text'),
        [
            ('training', 'learning_rate = 0.0'),
            ('training', 'learning_rate = inf'),
            ('training', 'warmup_steps = -1'),
            ('training', 'clip_norm = 0'),
            ('training', 'average_decay = 1.0'),
            ('training', 'checkpoint_minutes = -3.0'),
            ('training', 'seed = -1'),
            ('training', 'start_from = "nobody"'),
            ('training', 'start_from = "none.safetensors"'),
            ('simulation', 'single_fraction = 1.2'),
            ('simulation', 'confined_fraction = -0.1'),
            ('simulation', 'read_noise = [3.0, 1.0]'),
            ('simulation', 'typical_floor_snr = [0.0, 4.0]'),
            ('simulation', 'slope = 0.0'),
            ('simulation', 'dynamic_range = 1.0'),
            ('simulation', 'flux_min = 0.0'),
            ('simulation', 'shape = [0, 64]'),
            ('simulation', 'noise_order = "never"'),
            ('simulation', 'field_prior = "none.json"'),
            ('simulation', 'catalog_prior = "none.json"'),
        ],
    )
    def test_ranges(self, tmp_path, section, text):
        name = text.partition(' ')[0]
        path = self.write(tmp_path, f'[{section}]\n{text}')
        message = rf'config\.toml: in \[{section}\], {name} must'
        with pytest.raises(ValueError, match=message):
            load_config(path)

    def test_made_in_python(self, tiny_configs, tmp_path):
        """
        Classes check their settings; their kinds are checked before training.
        """
        encoder, simulation, training = tiny_configs
        with pytest.raises(ValueError, match='learning_rate must be'):
            dataclasses.replace(training, learning_rate='fast')
        with pytest.raises(ValueError, match='single_fraction must be'):
            dataclasses.replace(simulation, single_fraction=2.0)
        with pytest.raises(ValueError, match='config must hold EncoderConfig'):
            train_encoder((encoder, training, simulation), tmp_path / 'new')
        assert not (tmp_path / 'new').exists()

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_config(tmp_path / 'none.toml')

    def test_train_from_a_file(self, tmp_path):
        path = self.write(
            tmp_path,
            """
            [encoder]
            width = 8
            n_blocks = 1
            stem_width = 8
            head_width = 8
            patch_radius = 2
            [simulation]
            n_exposures = [1, 1]
            shape = [12, 12]
            psf = "paper"
            confined_fraction = 0.0
            margin = 0
            [training]
            n_steps = 1
            batch_size = 2
            n_validation = 2
            """,
        )
        encoder = train_encoder(path, tmp_path / 'out')
        assert encoder.name == 'config'
        assert (tmp_path / 'out' / 'config.safetensors').exists()
