"""The tasks of this project, each in its own environment. ``nox --list`` shows them."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = []

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PACKAGE_DIR = PYPROJECT["tool"]["setuptools"]["package-dir"]
VERSIONS: dict[str, list[str]] = PYPROJECT["tool"]["versions"]
SWEEPS: dict[str, list[str]] = PYPROJECT["tool"]["sweeps"]
COMPAT: dict[str, dict[str, str]] = PYPROJECT["tool"]["compat"]
CORE = (
    "tests/reference",
    *(f"tests/harness/{room}" for room in ("cases", "bounds", "probe", "candidates", "mutants", "worker")),
)
CONSTRAINTS = "constraints.txt"  # relative, because pip splits this environment variable at spaces
PARALLEL = ("-n", "auto", "--maxprocesses", "8")


def session(*, default: bool = False, posargs: bool = False) -> Callable[[Callable[[nox.Session], None]], object]:
    """Make a session named like the function. Bare ``nox`` runs each ``default``; only ``posargs`` allows arguments."""

    def decorate(function: Callable[[nox.Session], None]) -> object:
        def run(session: nox.Session) -> None:
            if session.posargs and not posargs:
                session.error(f"{function.__name__} takes no arguments, but got {session.posargs}")
            # The build requirements are pinned too. Pip before 25.3 reads the first variable, later pips the second.
            session.env.update(PIP_CONSTRAINT=CONSTRAINTS, PIP_BUILD_CONSTRAINT=CONSTRAINTS)
            function(session)

        run.__doc__ = function.__doc__
        if default:
            nox.options.sessions.append(function.__name__)
        return nox.session(name=function.__name__)(run)

    return decorate


def install(session: nox.Session, *groups: str, project: Iterable[str] = ("-e", ".")) -> None:
    """Install the project and dependency groups of pyproject.toml, all at the versions of constraints.txt."""
    session.install("-c", CONSTRAINTS, *project, *nox.project.dependency_groups(PYPROJECT, *groups))


def install_bare(session: nox.Session, *groups: str, **how: Any) -> None:
    """Install dependency groups of pyproject.toml without the dependencies of their packages. ``how`` goes to nox."""
    session.install("--no-deps", "-c", CONSTRAINTS, *nox.project.dependency_groups(PYPROJECT, *groups), **how)


@session(default=True)
def lint(session: nox.Session) -> None:
    """Check style, spelling, types, and what each room imports."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would install what an earlier tree left there
    install(session, "lint", project=["."])
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy", "-p", "shiftproof")
    session.run("typos")
    session.run("lint-imports", "pyproject.toml")


@session(default=True, posargs=True)
def tests(session: nox.Session) -> None:
    """Run the tests, without slow ones and those that need a quiet machine, a GPU or other people's libraries.

    The light peers get one or two cases. Arguments go to pytest.
    """
    install(session, "test", "peers-light-need")
    install_bare(session, "peers-light")
    session.env["OMP_NUM_THREADS"] = "1"
    session.run(
        "pytest",
        *PARALLEL,
        "-m",
        "not slow and not timed and not gpu and not peers and not benchmark",
        *session.posargs,
    )


@session(posargs=True)
def conformance(session: nox.Session) -> None:
    """Judge a loss. Arguments go to ``shiftproof check``; without any, it judges all candidates in pyproject.toml."""
    install(session, "peers")
    session.run("shiftproof", "check", *session.posargs)


@session(posargs=True)
def soak(session: nox.Session) -> None:
    """Run the tests that take minutes. Arguments go to pytest."""
    install(session, "test")
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("pytest", *PARALLEL, "-m", "slow", *session.posargs)


@session(posargs=True)
def timed(session: nox.Session) -> None:
    """Run the tests that time losses, one after the other on a quiet machine. Arguments go to pytest."""
    install(session, "test")
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("pytest", "-m", "timed", *session.posargs)


@session(posargs=True)
def gpu(session: nox.Session) -> None:
    """Run all GPU checks in ten minutes. Arguments go to tests/gpu/run.py; see its --help."""
    if missing := str(session.run("python", "tests/gpu/driver.py", silent=True)).strip():
        session.error(missing)
    install(session, "test")
    session.run("python", "tests/gpu/run.py", "--out", str(Path(session.create_tmp()).resolve()), *session.posargs)


@session(posargs=True)
def peers(session: nox.Session) -> None:
    """Judge other people's libraries and write docs/peers.md. Arguments go to pytest, and then nothing is written."""
    install(session, "test", "peers", "peers-need", "peers-light-need", "peers-jax", project=("-e", ".[ray]"))
    install_bare(session, "peers-light", "peers-bare")
    # Without a compiler, this build is skipped, and the table states that.
    install_bare(session, "peers-compiled", success_codes=[0, 1])
    session.env.update(OMP_NUM_THREADS="1", TRITON_INTERPRET="1")
    if not session.posargs:
        session.env["SHIFTPROOF_PEERS_TABLE"] = str(ROOT / "docs" / "peers.md")
    session.run("pytest", "-m", "peers", *session.posargs)


@session(posargs=True)
def sweep(session: nox.Session) -> None:
    """Judge every language model of transformers, in an environment with what its classes import.

    An argument that is a name of [tool.sweeps] selects a release; the newest is the default. Other arguments go to
    ``shiftproof sweep transformers``.
    """
    install(session, project=("-e", ".[ray]"))
    releases = {name: requirements for name, requirements in SWEEPS.items() if name != "all"}
    chosen = [argument for argument in session.posargs if argument in releases] or list(releases)[-1:]
    others = [argument for argument in session.posargs if argument not in releases]
    folder = Path(session.create_tmp()).resolve()
    behind = environment(session, folder / "all", SWEEPS["all"], behind=None)
    for name in chosen:
        python = environment(session, folder / name, releases[name], behind=behind)
        session.run("shiftproof", "sweep", "transformers", "--python", python, *others)


@session(posargs=True)
def versions(session: nox.Session) -> None:
    """Judge certain versions of other people's libraries, each in its own environment.

    Arguments that are names of [tool.versions] select versions. Other arguments go to pytest.
    """
    chosen = [argument for argument in session.posargs if argument in VERSIONS]
    install(session, "test", "peers")
    folder = Path(session.create_tmp()).resolve()
    for name in chosen or VERSIONS:
        environment(session, folder / name, VERSIONS[name], behind="python")
    session.env.update(OMP_NUM_THREADS="1", SHIFTPROOF_VERSIONS=str(folder))
    others = [argument for argument in session.posargs if argument not in VERSIONS]
    session.run("pytest", "-m", "peers", *(others or ["tests/peers/test_versions.py"]))


def environment(session: nox.Session, folder: Path, requirements: list[str], behind: str | None) -> str:
    """Make an environment in ``folder`` with these packages, and those of the interpreter ``behind`` for the rest.

    An existing environment with the same requirements stays as it is. Return its interpreter.
    """
    made = folder / "requirements.txt"
    exists = made.is_file() and made.read_text() == "\n".join(requirements)
    if not exists:
        session.run("python", "-m", "venv", "--clear", "--without-pip", str(folder))
    python = str(next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists()))
    if exists:
        return python
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    if behind is not None:
        packages = str(session.run(behind, "-c", query, external=True, silent=True)).strip()
        own = str(session.run(python, "-c", query, external=True, silent=True)).strip()
        (Path(own) / "behind.pth").write_text(packages + "\n")
    # They keep the versions of their own time, whatever constraints.txt states.
    freely = {"PIP_CONSTRAINT": "", "PIP_BUILD_CONSTRAINT": ""}
    session.run("python", "-m", "pip", "--python", python, "install", *requirements, env=freely, silent=True)
    made.write_text("\n".join(requirements))
    return python


@session(posargs=True)
def compat(session: nox.Session) -> None:
    """Run the core of the tests on each supported Python that is here, and on the oldest and the newest torch.
    Arguments are names of [tool.compat], and choose among them."""
    if unknown := set(session.posargs) - set(COMPAT):
        session.error(f"{sorted(unknown)} are no names of [tool.compat]; it has {', '.join(COMPAT)}")
    tmp, found = Path(session.create_tmp()).resolve(), {}
    for name in session.posargs or COMPAT:
        found[name] = run_on(session, tmp / name, **COMPAT[name])
        session.log(f"{name}: {found[name]}")
    session.log("\n".join(["", *(f"{name:<24} {outcome}" for name, outcome in found.items())]))
    if "failed" in found.values() or "passed" not in found.values():
        session.error("a version failed, or none could be run")


def run_on(session: nox.Session, folder: Path, python: str, **versions: str) -> str:
    """Run the core of the tests on an interpreter and other ``versions`` of torch and of what must fit it.

    Return passed, failed, or why it could not run.
    """
    if shutil.which(f"python{python}") is None:
        return f"not run: no python{python} on PATH"
    # Every other version is that of the other sessions, where this Python has it.
    others = ("triton==", *(f"{name}==" for name in versions))
    pins = [line for line in Path(CONSTRAINTS).read_text().splitlines() if not line.startswith(others)]
    constraints = folder.parent / f"{folder.name}.txt"
    constraints.write_text("\n".join([*pins, *(f"{name}=={version}" for name, version in versions.items())]) + "\n")
    freely = {"PIP_CONSTRAINT": "", "PIP_BUILD_CONSTRAINT": ""}
    executable = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    wanted = [".", *nox.project.dependency_groups(PYPROJECT, "test")]
    try:
        session.run(f"python{python}", "-m", "venv", "--clear", str(folder), external=True, silent=True)
        install = [executable, "-m", "pip", "install", "-c", str(constraints), *wanted]
        session.run(*install, env=freely, external=True, silent=True)
    except nox.command.CommandFailed:
        return "not run: could not be installed"
    mark = "not slow and not timed and not gpu and not peers and not benchmark"
    try:
        session.run(executable, "-m", "pytest", *PARALLEL, "-q", "-m", mark, *CORE, external=True)
    except nox.command.CommandFailed:
        return "failed"
    return "passed"


@session(posargs=True)
def mutation(session: nox.Session) -> None:
    """Mutate reference/, or the judge (``-- judge``), and write docs/mutation.md.

    Arguments go to tests/mutation/mutate.py.
    """
    install(session, "test", "mutation")
    session.run("python", "tests/mutation/mutate.py", *session.posargs)


@session()
def figures(session: nox.Session) -> None:
    """Draw docs/bounds.png and .svg, and write docs/bounds.csv and the tables of docs/bounds.md. Takes 3 minutes."""
    install(session, "peers", "docs")
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("python", "docs/scripts/bounds.py")


@session()
def comparison(session: nox.Session) -> None:
    """Judge the known bugs by other people's tests and write docs/comparison.md. Takes 10 minutes of one core."""
    install(session, "peers")
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("python", "docs/scripts/comparison.py")


@session(posargs=True)
def kill_table(session: nox.Session) -> None:
    """Judge every known-wrong loss and write docs/kill-table.md. Arguments go to ``shiftproof mutants``."""
    install(session)
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("python", "docs/scripts/kill_table.py", *session.posargs)


@session()
def branches(session: nox.Session) -> None:
    """Judge the declared candidates and losses with two paths, and write docs/branches.md: which code ran."""
    install(session, "peers")
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("python", "docs/scripts/branches.py")
    session.run("python", "docs/scripts/sizes.py")
    session.run("shiftproof", "mutants", "--doors", "24", "--markdown", "docs/doors.md")


@session()
def shrinking(session: nox.Session) -> None:
    """Compare the judge's shrinker with Hypothesis's and write docs/shrinking.md. Takes a minute of one core."""
    install(session)
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("python", "docs/scripts/shrinking.py")


@session(posargs=True)
def speed_gate(session: nox.Session) -> None:
    """Try the gate of ``shiftproof speed``, and write docs/speed-*.csv and the table of docs/speed.md.

    Takes 45 minutes.
    """
    install(session)
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("python", "docs/scripts/speed_gate.py", *session.posargs)


@session(posargs=True)
def benchmark(session: nox.Session) -> None:
    """Time the yardstick and the other installed losses, and write and draw docs/benchmark.*. Takes 20 minutes.

    It writes docs/benchmark.json and the tables of docs/benchmark.md. Arguments go to pytest, and then nothing is
    written.
    """
    install(session, "test", "peers", "peers-need", "docs")
    install_bare(session, "benchmark-bare")
    session.env["OMP_NUM_THREADS"] = "1"
    # The next call, of any loss, would have to fault in pages that glibc gave back.
    keeps_pages = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": str(64 << 20)}
    found = Path(session.create_tmp()).resolve() / "benchmark.json"
    recording = () if session.posargs else ("tests/benchmarks", f"--benchmark-json={found}")
    # The settings of pytest leave this plugin out. It makes a folder for its storage, even if it stores nothing.
    plugin = ("-p", "pytest_benchmark.plugin", f"--benchmark-storage=file://{found.parent / 'storage'}")
    session.run("pytest", *plugin, "-m", "benchmark", *(session.posargs or recording), env=keeps_pages)
    if not session.posargs:
        session.run("python", "docs/scripts/benchmark.py", str(found))


@session()
def build(session: nox.Session) -> None:
    """Build the sdist and the wheel, check their contents, and use the wheel in an empty environment."""
    tmp = Path(session.create_tmp()).resolve()
    shutil.rmtree(tmp)
    dist, home, environment = tmp / "dist", tmp / "home", tmp / "environment"
    home.mkdir(parents=True)
    install(session, "build", project=())
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
    prove_sdist(session, sdist)
    prove_wheel(session, wheel)

    session.run("python", "-m", "venv", "--without-pip", str(environment))
    scripts = environment / ("Scripts" if (environment / "Scripts").is_dir() else "bin")
    python = str(scripts / "python")
    session.run("python", "-m", "pip", "--python", python, "install", "-c", CONSTRAINTS, str(wheel), silent=True)
    (home / "user.py").write_text(
        "import shiftproof.harness\n"
        "from shiftproof.reference.spec import LossSpec\n\n"
        "def name(spec: LossSpec) -> str:\n"
        "    return repr(spec)\n"
    )
    session.chdir(home)
    session.run(str(scripts / "shiftproof"), "--help", external=True, silent=True)
    session.run(str(scripts / "shiftproof"), "list", "profiles", external=True)
    session.run(python, "-m", "shiftproof", "--help", external=True, silent=True)
    session.run("mypy", "--strict", "--python-executable", python, "user.py")


def files_under(folder: str) -> set[str]:
    """Return every file that belongs to the project in one of its folders, named from the root."""
    files = (file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(ROOT).as_posix() for file in files}


def prove_wheel(session: nox.Session, wheel: Path) -> None:
    """Check that the wheel holds every file of the package under its installed name, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        holds = set(archive.namelist())
        metadata = {name for name in holds if name.split("/")[0].endswith(".dist-info")}
        [entry_points] = [archive.read(name).decode() for name in metadata if name.endswith("/entry_points.txt")]
    expected = {
        f"{package.replace('.', '/')}/{file.removeprefix(f'{folder}/')}"
        for package, folder in PACKAGE_DIR.items()
        for file in files_under(folder)
    }
    if differ := (holds - metadata) ^ expected:
        session.error(f"{wheel.name} and the tree differ in {sorted(differ)}")
    if not any(name.endswith(".schema.json") for name in expected) or "shiftproof/py.typed" not in expected:
        session.error("the tree has no py.typed or no schema of the JSON report")
    if not any(name.endswith("/licenses/LICENSE") for name in metadata):
        session.error(f"{wheel.name} has no licence")
    for entry_point in (
        "shiftproof = shiftproof.harness.cli.start:main",
        "shiftproof = shiftproof.harness.pytest_plugin.plugin",
    ):
        if entry_point not in entry_points.splitlines():
            session.error(f"{wheel.name} has no entry point {entry_point!r}")


def prove_sdist(session: nox.Session, sdist: Path) -> None:
    """Check that the sdist holds everything needed to build, test and read about the project."""
    with tarfile.open(sdist) as archive:
        holds = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    expected = {page.name for page in ROOT.glob("*.md")}
    expected |= {"LICENSE", "constraints.txt", "noxfile.py", "pyproject.toml"}
    for folder in ("docs", "examples", "tests", *PACKAGE_DIR.values()):
        expected |= {file for file in files_under(folder) if ".egg-info/" not in file}
    if missing := expected - holds:
        session.error(f"{sdist.name} does not hold {sorted(missing)}")
