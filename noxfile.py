"""What can be done with this project, each in an environment of its own: ``nox --list``."""

from __future__ import annotations

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
CONSTRAINTS = "constraints.txt"  # relative, because pip splits what it reads from the environment at spaces
PARALLEL = ("-n", "auto", "--maxprocesses", "8")


def session(*, default: bool = False, posargs: bool = False) -> Callable[[Callable[[nox.Session], None]], object]:
    """A session by the function's name; bare ``nox`` runs each ``default``; only those with ``posargs`` take any."""

    def decorate(function: Callable[[nox.Session], None]) -> object:
        def run(session: nox.Session) -> None:
            if session.posargs and not posargs:
                session.error(f"{function.__name__} takes no arguments, but was given {session.posargs}")
            # What builds the project is pinned too. Pip before 25.3 reads the first, later ones the second.
            session.env.update(PIP_CONSTRAINT=CONSTRAINTS, PIP_BUILD_CONSTRAINT=CONSTRAINTS)
            function(session)

        run.__doc__ = function.__doc__
        if default:
            nox.options.sessions.append(function.__name__)
        return nox.session(name=function.__name__)(run)

    return decorate


def install(session: nox.Session, *groups: str, project: Iterable[str] = ("-e", ".")) -> None:
    """The project, and dependency groups of pyproject.toml, all at the versions of constraints.txt."""
    session.install("-c", CONSTRAINTS, *project, *nox.project.dependency_groups(PYPROJECT, *groups))


def install_bare(session: nox.Session, *groups: str, **how: Any) -> None:
    """Dependency groups of pyproject.toml without what their packages depend on; ``how`` goes to nox."""
    session.install("--no-deps", "-c", CONSTRAINTS, *nox.project.dependency_groups(PYPROJECT, *groups), **how)


@session(default=True, posargs=True)
def tests(session: nox.Session) -> None:
    """Run the tests, but for the slow and those that need a quiet machine, a GPU or other people's libraries (the light
    ones are asked a case or two); arguments go to pytest."""
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
    """Judge a loss: arguments go to ``shiftproof check``, which bare judges every candidate in pyproject.toml."""
    install(session, "peers")
    session.run("shiftproof", "check", *session.posargs)


@session(posargs=True)
def soak(session: nox.Session) -> None:
    """Run the tests that take minutes; arguments go to pytest."""
    install(session, "test")
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("pytest", *PARALLEL, "-m", "slow", *session.posargs)


@session(posargs=True)
def timed(session: nox.Session) -> None:
    """Run the tests that time losses, one after the other on a quiet machine; arguments go to pytest."""
    install(session, "test")
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("pytest", "-m", "timed", *session.posargs)


@session(posargs=True)
def gpu(session: nox.Session) -> None:
    """Run all that there is for a GPU, in ten minutes; arguments go to tests/gpu/run.py, whose --help has them."""
    if missing := str(session.run("python", "tests/gpu/driver.py", silent=True)).strip():
        session.error(missing)
    install(session, "test")
    session.run("python", "tests/gpu/run.py", "--out", str(Path(session.create_tmp()).resolve()), *session.posargs)


@session(posargs=True)
def peers(session: nox.Session) -> None:
    """Judge other people's libraries and write docs/peers.md; arguments go to pytest, and then nothing is written."""
    install(session, "test", "peers", "peers-need", "peers-light-need", project=("-e", ".[ray]"))
    install_bare(session, "peers-light", "peers-bare")
    # Without a compiler it is skipped, and the table says so.
    install_bare(session, "peers-compiled", success_codes=[0, 1])
    session.env.update(OMP_NUM_THREADS="1", TRITON_INTERPRET="1")
    if not session.posargs:
        session.env["SHIFTPROOF_PEERS_TABLE"] = str(ROOT / "docs" / "peers.md")
    session.run("pytest", "-m", "peers", *session.posargs)


@session(posargs=True)
def sweep(session: nox.Session) -> None:
    """Judge every language model of transformers: arguments go to ``shiftproof sweep transformers``."""
    install(session, "peers", project=("-e", ".[ray]"))
    session.run("shiftproof", "sweep", "transformers", *session.posargs)


@session(posargs=True)
def versions(session: nox.Session) -> None:
    """Judge certain versions of other people's libraries, each in an environment of its own; arguments that are names
    of [tool.versions] choose among them, others go to pytest."""
    chosen = [argument for argument in session.posargs if argument in VERSIONS]
    install(session, "test", "peers")
    folder = Path(session.create_tmp()).resolve()
    for name in chosen or VERSIONS:
        environment(session, folder / name, VERSIONS[name])
    session.env.update(OMP_NUM_THREADS="1", SHIFTPROOF_VERSIONS=str(folder))
    others = [argument for argument in session.posargs if argument not in VERSIONS]
    session.run("pytest", "-m", "peers", *(others or ["tests/peers/test_versions.py"]))


def environment(session: nox.Session, folder: Path, requirements: list[str]) -> None:
    """An environment in ``folder`` with these packages, what they need of the session's where that will do, and the
    rest of it behind them. One that is there with the same requirements is left as it is."""
    made = folder / "requirements.txt"
    if made.is_file() and made.read_text() == "\n".join(requirements):
        return
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(folder))
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    python = str(next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists()))
    behind = str(session.run("python", "-c", query, silent=True)).strip()
    own = str(session.run(python, "-c", query, external=True, silent=True)).strip()
    (Path(own) / "behind.pth").write_text(behind + "\n")
    # Versions of their own time, whatever constraints.txt says.
    freely = {"PIP_CONSTRAINT": "", "PIP_BUILD_CONSTRAINT": ""}
    session.run("python", "-m", "pip", "--python", python, "install", *requirements, env=freely, silent=True)
    made.write_text("\n".join(requirements))


@session(posargs=True)
def mutation(session: nox.Session) -> None:
    """Mutate reference/, or the judge (``-- judge``), and write docs/mutation.md; arguments go to
    tests/mutation/mutate.py."""
    install(session, "test", "mutation")
    session.run("python", "tests/mutation/mutate.py", *session.posargs)


@session()
def figures(session: nox.Session) -> None:
    """Draw docs/bounds.png and .svg, and write docs/bounds.csv and the tables of docs/bounds.md: three minutes."""
    install(session, "peers", "docs")
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("python", "docs/scripts/bounds.py")


@session()
def comparison(session: nox.Session) -> None:
    """Judge the known bugs by other people's tests and write docs/comparison.md: ten minutes of one core."""
    install(session, "peers")
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("python", "docs/scripts/comparison.py")


@session(posargs=True)
def speed_gate(session: nox.Session) -> None:
    """Try the gate of ``shiftproof speed``, and write docs/speed-*.csv and the table of docs/speed.md: three
    quarters of an hour."""
    install(session)
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("python", "docs/scripts/speed_gate.py", *session.posargs)


@session(posargs=True)
def benchmark(session: nox.Session) -> None:
    """Time the yardstick and what else is installed, write docs/benchmark.json and the tables of docs/benchmark.md, and
    draw them: twenty minutes. Arguments go to pytest, and then nothing is written."""
    install(session, "test", "peers", "peers-need", "docs")
    install_bare(session, "benchmark-bare")
    session.env["OMP_NUM_THREADS"] = "1"
    # Pages that glibc gave back would have to be faulted in by the next call, whoever made it.
    keeps_pages = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": str(64 << 20)}
    found = Path(session.create_tmp()).resolve() / "benchmark.json"
    recording = () if session.posargs else ("tests/benchmarks", f"--benchmark-json={found}")
    session.run("pytest", "-m", "benchmark", *(session.posargs or recording), env=keeps_pages)
    if not session.posargs:
        session.run("python", "docs/scripts/benchmark.py", str(found))


@session(default=True)
def lint(session: nox.Session) -> None:
    """Check style, types, and what each module imports."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would install what an earlier tree left there
    install(session, "lint", project=["."])
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy", "-p", "shiftproof")
    session.run("pytest", "tests/project/test_imports.py")


@session()
def build(session: nox.Session) -> None:
    """Build the sdist and the wheel, prove what they hold, and use the wheel in an empty environment."""
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
    """Every file that belongs to the project in one of its folders, named from the root."""
    files = (file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(ROOT).as_posix() for file in files}


def prove_wheel(session: nox.Session, wheel: Path) -> None:
    """The wheel holds every file of the package under its installed name, and nothing more."""
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
        session.error("the tree lacks py.typed or the schema of the JSON report")
    if not any(name.endswith("/licenses/LICENSE") for name in metadata):
        session.error(f"{wheel.name} lacks the licence")
    for entry_point in ("shiftproof = shiftproof.harness.cli:main", "shiftproof = shiftproof.harness.plugin"):
        if entry_point not in entry_points.splitlines():
            session.error(f"{wheel.name} lacks the entry point {entry_point!r}")


def prove_sdist(session: nox.Session, sdist: Path) -> None:
    """The sdist holds what it takes to build, test and read about the project."""
    with tarfile.open(sdist) as archive:
        holds = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    expected = {page.name for page in ROOT.glob("*.md")}
    expected |= {"LICENSE", "constraints.txt", "noxfile.py", "pyproject.toml"}
    for folder in ("docs", "examples", "tests", *PACKAGE_DIR.values()):
        expected |= {file for file in files_under(folder) if ".egg-info/" not in file}
    if missing := expected - holds:
        session.error(f"{sdist.name} lacks {sorted(missing)}")
