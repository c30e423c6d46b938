"""The house stands as it was drawn: who may import whom, what an import does, and what the repository holds."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import ssast_lab

PACKAGE = Path(ssast_lab.__file__).parent
ROOT = Path(__file__).parent.parent
WINGS = [  # floor by floor; the root holds the paper
    {"", "audio", "checkpoint", "config"},
    {"data"},
    {"learning"},
    {"figures"},
    {"measuring", "stage"},
    {"app", "widgets", "commands", "__main__"},
]
FLOOR = {wing: number for number, wings in enumerate(WINGS) for wing in wings}
FACES = WINGS[FLOOR["figures"]] | {"stage"} | WINGS[-1]  # all else is the core, which trains without them
# but for the front door, which imports nothing at once
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
MODULES = {"ssast_lab": PACKAGE / "__init__.py"} | {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def wing_of(path):
    top = path.relative_to(PACKAGE).parts[0]
    return "" if top.endswith(".py") and top != "__main__.py" else top.removesuffix(".py")


def module_of(name):
    """The module that a dotted name is, or is in."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


CORE = sorted(name for name, path in MODULES.items() if wing_of(path) not in FACES)


def imported(path):
    """The modules of the package that a file imports, and the dotted names of others, at its top or anywhere else."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{module}.{name.name}" for name in node.names]
        yield from (module_of(name) if name.split(".")[0] == "ssast_lab" else name for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_wings_import_only_wings_below(path):
    for name in imported(path):
        if name in MODULES and wing_of(MODULES[name]) != wing_of(path):
            assert FLOOR[wing_of(MODULES[name])] <= FLOOR[wing_of(path)], f"{path} imports {name}, which lies above it."
    assert wing_of(path) in FLOOR, f"{path} is in no wing: say in WINGS on which floor it stands."


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_a_folder_lists_its_files_and_each_imports_only_those_above(folder):
    """In reading order, in the docstring of its ``__init__.py``; the root's list holds the paper's files."""
    described = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")), clean=False) or ""
    listed = re.findall(r"^ *(\w+)(?:\.py|/)  +\w", described, re.M)
    here = {
        path.name.removesuffix(".py") for path in [*folder.glob("*.py"), *(f for f in FOLDERS if f.parent == folder)]
    }
    assert sorted(listed) == sorted(here - {"__init__", "__main__"})
    base = ".".join(folder.relative_to(PACKAGE.parent).parts)
    for number, name in enumerate(listed):
        path = folder / name
        for file in [path.with_suffix(".py")] if path.with_suffix(".py").exists() else path.rglob("*.py"):
            for other in imported(file):
                part = other.removeprefix(f"{base}.").split(".")[0]
                if other.startswith(f"{base}.") and part != name and wing_of(MODULES[other]) == wing_of(file):
                    assert part in listed[:number], (
                        f"{file} imports {other}, which is not above it in the list of {folder}."
                    )


def test_figures_draw_without_torch():
    for path in FILES:
        if wing_of(path) == "figures":
            assert not any(name.split(".")[0] in ("torch", "torchaudio") for name in imported(path))


def test_all_json_is_strict():
    """Written by ``files.to_json``; scripts of the page quote their strings themselves."""
    for path in FILES:
        if path != PACKAGE / "files.py" and wing_of(path) != "app":
            assert not re.search(r"json\.dumps?\(", path.read_text(encoding="utf-8")), f"{path}: use files.to_json"


def python(script, *arguments, folder):
    """Runs a script in a fresh interpreter."""
    run = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


STEP = """
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("gradio", "ipywidgets", "IPython", "plotly", "librosa", "anywidget"):
            raise ImportError(f"the core imports {name}")
sys.meta_path.insert(0, Blocked())
for module in sys.argv[1:]:
    importlib.import_module(module)

import torch
from ssast_lab import audio, masking, objectives
from ssast_lab.config import model_config
from ssast_lab.model import SSAST
torch.set_num_threads(1)
torch.manual_seed(0)
model = SSAST(model_config("nano-patch", frames=96))
wave = torch.sin(torch.arange(16000) ** 2 * 1e-5)
fbank = audio.log_mel(wave, frames=96)[None]
mask = masking.cluster_mask(model.grid, 20, generator=torch.Generator().manual_seed(0), batch=1)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
totals = []
for _ in range(2):
    loss = objectives.joint(model(fbank, mask), model.targets(fbank, mask)).total
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    totals.append(loss.item())
assert totals[1] < totals[0], totals
print("learned")
"""


def test_core_trains_without_the_faces(tmp_path):
    assert python(STEP, *CORE, folder=tmp_path) == "learned\n"


def test_the_package_itself_imports_nothing(tmp_path):
    script = "import sys, ssast_lab; print({'torch', 'numpy', 'gradio'} & set(sys.modules), ssast_lab.__version__)"
    assert python(script, folder=tmp_path) == f"set() {ssast_lab.__version__}\n"


OPENED = """
import importlib, sys
from pathlib import Path
package, *modules = sys.argv[1:]
sys.argv[1:] = ["--no-such-option"]  # nobody reads the arguments
here = (package + "/", str(Path.cwd()) + "/")
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = str(Path(arguments[0]).absolute())
        code = path.endswith((".py", ".pyc")) or ".pyc." in path
        if path.startswith(here) and not code and Path(path).is_file():
            print("opened", path)
sys.addaudithook(watch)
for module in modules:
    importlib.import_module(module)
import torch
assert torch.initial_seed() == torch.default_generator.initial_seed()
assert not torch.cuda.is_initialized()
"""


def test_nothing_happens_at_import(tmp_path):
    modules = [
        name for name, path in MODULES.items() if wing_of(path) != "widgets"
    ]  # which need what only notebooks have
    assert python(OPENED, str(PACKAGE), *modules, folder=tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


CONDA_NAMES = {"pysoundfile": "soundfile", "soxr-python": "soxr", "pre_commit": "pre-commit"}  # where they differ


def requirement(line):
    """ "name>=1,<2" -> ("name", the bounds in order)."""
    name, bounds = re.fullmatch(r"([A-Za-z0-9_.-]+?)\s*((?:[<>=!~].*)?)", line.split("#")[0].strip()).groups()
    return CONDA_NAMES.get(name, name).lower().replace("_", "-"), sorted(re.split(r"\s*,\s*", bounds))


def test_conda_and_pip_ask_for_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = dict(map(requirement, [*project["dependencies"], *(line for extra in extras.values() for line in extra)]))

    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    from_conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (from_pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert from_pip[-1] == "-e ."
    given = [requirement(line) for line in [*from_conda, *from_pip[:-1]]]
    assert len(dict(given)) == len(given), "nothing comes twice"
    given = dict(given)
    given.pop("pip")
    assert given.pop("python") == ["=3.12"]
    assert given == wanted


def test_what_only_tests_take_is_the_same_everywhere():
    """The validators of two benches, which are installed without what they ask for."""
    asked = {
        name: re.findall(r"--no-deps ([\w .=]+==[\w.]+)", (ROOT / name).read_text(encoding="utf-8"))
        for name in ("Makefile", "CONTRIBUTING.md", "environment.yml")
    }
    assert asked["Makefile"] == asked["CONTRIBUTING.md"] == asked["environment.yml"]
    (names,) = asked["Makefile"]
    assert [name.partition("==")[0] for name in names.split()] == ["hearvalidator", "xares"]


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("This is no git checkout.")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_registry_and_no_machine_is_named():
    hosts = [".".join(words) for words in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "org"))]
    hosts += [".".join(words) for words in (("download", "pytorch", "org"), ("npmjs", "org"), ("jsdelivr", "net"))]
    folders = "|".join(("work", "tmp", "root", "home", "Users", "mnt"))
    pattern = re.compile("|".join(map(re.escape, hosts)) + rf"|(?<![\w.~/<$}}{{:-])/(?:{folders})/\w")
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a sound or a picture
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert not found


def test_no_large_files():
    heavy = [path.relative_to(ROOT) for path in tracked() if path.stat().st_size > 1 << 20]
    assert not [path for path in heavy if path.parts[:2] not in (("ssast_lab", "models"), ("ssast_lab", "sounds"))]


NOT_HANDED_OUT = (".ci/", ".github/", ".gitignore", ".pre-commit-config.yaml")  # what only the repository needs
MADE = ("PKG-INFO", "setup.cfg", "ssast_lab.egg-info/")  # by setuptools
BUILD = (
    "import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"  # as any builder asks for it
)


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    """From what git tracks and nothing else: the names in the source distribution, the wheels of both, and where that of the source
    distribution is installed, beside nothing else of ours."""
    place = tmp_path_factory.mktemp("handed out")
    for path in tracked():
        copy = place / "tree" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    python(BUILD.format(kind="sdist"), str(place), folder=place / "tree")
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {member.name.partition("/")[2] for member in tar if member.isfile()}
        tar.extractall(place, filter="data")
    unpacked = place / archive.name.removesuffix(".tar.gz")
    wheels = []
    for source in (place / "tree", unpacked):
        wheel = place / f"wheel of {source.name}"
        wheel.mkdir()
        python(BUILD.format(kind="wheel"), str(wheel), folder=source)
        wheels += wheel.glob("*.whl")
    words = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(place / "site"), str(wheels[1])]
    pip = [sys.executable, "-m", "pip", *words]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return names, wheels, place / "site"


def test_the_source_distribution_is_the_repository(handed_out):
    names, _, _ = handed_out
    wanted = {str(path.relative_to(ROOT)) for path in tracked()}
    assert {name for name in wanted if not name.startswith(NOT_HANDED_OUT)} == {
        name for name in names if not name.startswith(MADE)
    }


def test_both_make_the_same_wheel_with_every_file_of_the_package(handed_out):
    contents = []
    for wheel in handed_out[1]:
        with zipfile.ZipFile(wheel) as file:
            contents.append({name: file.read(name) for name in file.namelist() if not name.endswith("/RECORD")})
    assert contents[0] == contents[1]
    ours = {name: content for name, content in contents[1].items() if ".dist-info/" not in name}
    package = [path for path in tracked() if path.is_relative_to(PACKAGE)]
    assert ours == {str(path.relative_to(ROOT)): path.read_bytes() for path in package}
    licences = {name.partition("/licenses/")[2] for name in contents[1]} - {""}
    assert licences == {"LICENSE", "ssast_lab/sounds/LICENCES.md"}


ALONE = """
import ssast_lab
from ssast_lab import audio, checkpoint
from ssast_lab.app import find_models
print(ssast_lab.__file__)
sounds = audio.builtin_sounds()
wave = audio.load_waveform(next(iter(sounds.values()))["path"])
for name in checkpoint.builtin_models():
    print(name, ssast_lab.excerpt(wave, checkpoint.load(name).config).grid.count, len(sounds), name in find_models())
"""


def test_what_is_installed_has_its_models_and_sounds(handed_out, tmp_path):
    site = handed_out[2]
    place, *lines = python(f"import sys; sys.path.insert(0, {str(site)!r})\n{ALONE}", folder=tmp_path).splitlines()
    assert Path(place).is_relative_to(site)
    assert len(lines) >= 2
    for line in lines:
        name, patches, sounds, offered = line.split()
        assert (int(patches) > 0, int(sounds) >= 8, offered) == (True, True, "True"), name


def test_what_is_installed_has_its_command(handed_out, tmp_path):
    site = handed_out[2]

    def run(*words):
        env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [site / "bin" / "ssast-lab", *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--version") == f"ssast-lab {ssast_lab.__version__}\n"
    assert run("info", "tiny-patch").startswith("tiny-patch: SSAST, ")
    sound = site / "ssast_lab" / "sounds" / "speech.flac"
    said = run("embed", "tiny-frame", str(sound), "--out", "speech.npz")
    assert re.match(r"1 of 1 files to embed by tiny-frame .*\nspeech\.npz: \d+ windows of 1 files", said), said
    assert [path.name for path in tmp_path.iterdir()] == ["speech.npz"]


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]), ids=lambda page: page.name
)
def test_pages_link_to_what_is_there(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
