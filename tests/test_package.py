# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of the package as a whole: names, imports and the direction of the flow.
"""

import ast
import functools
import graphlib
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from astropy.utils.exceptions import AstropyDeprecationWarning

import bliss_astro
from bliss_astro._lazy import moved_names

ROOT = Path(bliss_astro.__file__).parent

# Top to bottom; a folder may import the folders before it, and no other.
FLOW = (
    'psf',
    'priors',
    'rendering',
    'exposures',
    'coadds',
    'simulation',
    'posteriors',
    'encoders',
    'galaxies',
    'catalog',
    'detection',
    'checks',
    'training',
    'surveys',
    'runs',
    'metrics',
    'plotting',
    'cli',
)
# Imported late, inside of methods and options that lead further down.
LATE = {
    ('catalog/_methods.py', 'checks'),
    ('detection/_batches.py', 'checks'),
}
# What only some functions need, imported by those functions.
HEAVY = (
    *('dask', 'distributed', 'galsim', 'matplotlib', 'photutils', 'reproject'),
    'pyarrow',
)


def _modules():
    return sorted(
        module.name for module in pkgutil.walk_packages([str(ROOT)], 'bliss_astro.')
    )


def _part(path):
    return path.relative_to(ROOT).with_suffix('').parts[0]


def test_public_names():
    assert set(bliss_astro.__all__) <= set(dir(bliss_astro))
    for name in bliss_astro.__all__:
        assert getattr(bliss_astro, name) is not None
    with pytest.raises(AttributeError, match='no attribute'):
        bliss_astro.no_such_name  # noqa: B018


def test_moved_names_warn():
    """
    A name that moved is found in its old place, with a warning of its new one.
    """
    for old, new in moved_names().items():
        folder, _, name = f'bliss_astro.{old}'.rpartition('.')
        module = importlib.import_module(folder)
        assert name not in getattr(module, '__all__', ())
        with pytest.warns(AstropyDeprecationWarning, match=f'{name} .*will be removed'):
            found = getattr(module, name)
        assert found == pkgutil.resolve_name(f'bliss_astro.{new}'), old


# Other packages take most of the time, so processes share them and nothing else.
_IMPORTS = """
import importlib, os, sys, traceback
import bliss_astro
assert 'torch' not in sys.modules, 'torch'
import astropy.nddata, astropy.table, astropy.wcs
import scipy.ndimage, scipy.optimize, scipy.stats, torch
assert not any(name.startswith('bliss_astro.p') for name in sys.modules)
for name in sys.argv[1:] if hasattr(os, 'fork') else ():
    process = os.fork()
    if process == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        print(name)
bliss_astro.detect_sources
print([name for name in HEAVY if name in sys.modules])
print(sum(name.startswith('bliss_astro') for name in sys.modules))
"""


def test_imports_are_light_and_in_any_order():
    """
    A folder imported before anything else meets no circular import.

    The package, and all that ``detect_sources`` imports, leave heavy packages out.
    """
    names = [name for name in _modules() if '._' not in name]
    done = subprocess.run(
        [sys.executable, '-c', f'HEAVY = {HEAVY!r}\n{_IMPORTS}', *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert {f'bliss_astro.{part}' for part in FLOW} <= set(names)
    assert done.returncode == 0, done.stderr
    *failed, heavy, n_modules = done.stdout.splitlines()
    assert failed == [], done.stderr
    assert heavy == '[]'
    assert int(n_modules) <= 90


def _is_private(name):
    return any(part.startswith('_') for part in name.split('.'))


def test_all_lists_what_exists():
    for name in _modules():
        module = importlib.import_module(name)
        public = getattr(module, '__all__', ())
        # Public names are listed by folders alone.
        assert not public or not _is_private(name) or name.endswith('_version'), name
        assert isinstance(public, list | tuple)
        assert sorted(set(public)) == sorted(public)
        for each in public:
            assert hasattr(module, each)


@functools.cache
def _tree(path):
    return ast.parse(path.read_text())


def _imports(node, function=''):
    """Imports with the name of the function that they are in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, function
        inner = isinstance(child, ast.FunctionDef)
        yield from _imports(child, child.name if inner else function)


@pytest.mark.parametrize(
    'path',
    [
        path
        for path in sorted(ROOT.rglob('*.py'))
        if _part(path) in FLOW and 'data' not in path.parts
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_flow_never_turns_back(path):
    """
    A folder imports only the folders above it.
    """
    allowed = FLOW[: FLOW.index(_part(path)) + 1]
    package = ('bliss_astro', *path.relative_to(ROOT).parts[:-1])
    name = path.relative_to(ROOT).as_posix()
    tree = _tree(path)
    for node, late in _imports(tree):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            stem = (*base, *(node.module or '').split('.')) if node.module else base
            targets = [(*stem, alias.name) for alias in node.names]
        else:
            targets = [tuple(alias.name.split('.')) for alias in node.names]
        targets = [_with_folder(target) for target in targets]
        for target in targets:
            if target[0] == 'bliss_astro' and len(target) > 1 and target[1] in FLOW:
                # Pictures are a leaf that any method `plot` may lead to.
                leaf = target[1] == 'plotting' and late == 'plot'
                known = leaf or (late and (name, target[1]) in LATE)
                assert target[1] in allowed or known, '.'.join(target)
    # Neither by an attribute of the package, nor by a name in a string.
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != 'bliss_astro' or node.attr == '__version__'
        called = isinstance(node, ast.Call) and getattr(node.func, 'attr', '')
        assert called not in ('import_module', 'resolve_name'), 'see _lazy.py'


def _with_folder(target):
    """Path of an imported name, whose folder stands second: `bliss_astro.Exposure`."""
    if len(target) == 2 and target[0] == 'bliss_astro' and target[1] not in FLOW:
        home = getattr(getattr(bliss_astro, target[1], None), '__module__', '')
        return (*(home or '').split('.')[:2], target[1])
    return target


def test_no_import_circles():
    """
    No module imports, when it is loaded, one that imports it.
    """
    paths = {}
    for path in ROOT.rglob('*.py'):
        parts = ('bliss_astro', *path.relative_to(ROOT).with_suffix('').parts)
        paths['.'.join(parts).removesuffix('.__init__')] = path, parts[:-1]
    graph = {}
    for name, (path, package) in paths.items():
        graph[name] = set()
        for node, late in _imports(_tree(path)):
            if late or not isinstance(node, ast.ImportFrom):
                continue
            base = package[: len(package) + 1 - node.level] if node.level else ()
            stem = '.'.join([*base, *filter(None, [node.module])])
            for alias in node.names:
                module = f'{stem}.{alias.name}'
                graph[name].add(module if module in paths else stem)
    order = graphlib.TopologicalSorter(
        {name: (found & paths.keys()) - {name} for name, found in graph.items()}
    )
    order.prepare()  # raises CycleError, which names the circle


def test_words_of_the_field():
    """
    Code and documentation use the field's terms: networks have inputs, not knowledge.
    """
    phrases = re.compile(
        r'\b(told|tells|asked|knows|speaks?|thinks?|thought|honest\w*|hang together|'
        r'of one.s own)\b'
    )
    openers = re.compile(r'^\s*(?:r?""")?(What|Of) [a-z]')
    allowed = "OLD_SETTINGS = {'told': 'conditioning'}"
    root = ROOT.parent
    paths = [*ROOT.rglob('*.py'), *root.glob('docs/**/*.rst'), root / 'README.rst']
    found = [
        f'{path.name}:{number}: {line.strip()}'
        for path in paths
        if path.is_file() and not {'api', 'gallery', '_build'} & {*path.parts}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if allowed not in line
        and (phrases.search(line) or (path.suffix == '.py' and openers.search(line)))
    ]
    assert found == []
