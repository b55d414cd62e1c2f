"""The docs say what is so: their commands, profiles, Python and make targets are read as their programs read them.

`llama2` and `mlflow` lines go through those commands' own parsers, with --set applied to the profile that the command
runs. Drills execute them: the tutorial's in test_tutorial.py, those of all other pages in test_docs_commands.py.
"""

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import dropwhile
from pathlib import Path
from typing import Any

import mlflow.cli
import pytest
import typer.main
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from playwright.sync_api import sync_playwright
from typer._click.exceptions import UsageError

from benchmarks import results_figures
from deployments import cli, profiles
from llama2_core.errors import ConfigError
from tests.tasks.conftest import CHROMIUM, FLAGS

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")),
]
OTHERS = {
    "curl",
    "export",
    "source",
    "vllm",
    "git",
    "cd",
    "prefect",
    "docker",
    "python",
    "mkdir",
    "cat",
    "sha256sum",
}
KINDS: dict[str, type] = {
    "run": profiles.Profile,
    "pretrain": profiles.Profile,
    "data build": profiles.Profile,
    "plan": profiles.Profile,
    "rlhf": profiles.RoundsProfile,
    "finetune": profiles.FineTuneProfile,
    "adapt": profiles.AdaptProfile,
    "teach": profiles.TeachProfile,
    "safety preprompts": profiles.SafetyProfile,
    "safety distil": profiles.SafetyProfile,
    "safety scaling": profiles.SafetyProfile,
    "safety prompts": profiles.SafetyProfile,
}
"""What the values after --set belong to."""
LLAMA2: Any = typer.main.get_command(cli.app)
COMMAND_NAMES = set(LLAMA2.commands)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Yield (language, text) of a page's fenced blocks."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return ((found[1], found[2]) for found in fence.finditer((ROOT / page).read_text(encoding="utf-8")))


def commands(page: str) -> list[list[str]]:
    """Return the commands of a page's blocks without a language, as words; NAME=VALUE may stand before a program."""
    text = "\n".join(text for language, text in blocks(page) if not language)
    lexed = []
    for line in text.replace("\\\n", " ").splitlines():
        told = re.sub(r"^[\w-]+\$ |(^|\s)#.*", "", line)  # a prompt; a comment, which begins a word
        lexer = shlex.shlex(told, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split, lexer.commenters = True, ""
        lexed += [*lexer, ";"]
    found: list[list[str]] = [[]]
    for word in lexed:
        if word in (";", "|", "&&"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def program(words: list[str]) -> list[str]:
    return list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))


COMMANDS = [(page, program(words)) for page in PAGES for words in commands(page)]


def parse(command: Any, name: str, words: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the path of a command, of Typer's copy of click or of click, and its values. Raises UsageError."""
    context = command.make_context(name, list(words))
    if not hasattr(command, "commands"):
        return "", context.params
    chosen, below, left = command.resolve_command(context, [*context._protected_args, *context.args])
    path, values = parse(below, chosen or "", left)
    return f"{chosen} {path}".strip(), values


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS]
)
def test_a_command_is_understood(page: str, words: list[str]) -> None:
    match words:
        case ["llama2", *rest]:
            path, values = parse(LLAMA2, "llama2", rest)
            check_changes(path, values)
        case ["mlflow", *rest]:
            parse(mlflow.cli.cli, "mlflow", rest)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", package]:
            extra = re.fullmatch(r"llama2-pipeline\[(\w+)\]", package)
            assert extra and extra[1] in project()["optional-dependencies"]
        case ["python", "-m", module, *_]:
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
        case ["curl", *rest]:
            json.loads(rest[rest.index("-d") + 1])
        case [program, *_]:
            assert program in OTHERS


def check_changes(path: str, values: dict[str, Any]) -> None:
    """Apply --set to the profile that the command would load; one of the reader's own counts as empty."""
    changes, name = values.get("changes") or [], values.get("profile") or values.get("shape") or ""
    if path not in KINDS:
        assert not changes, path
        return
    file = profiles.FOLDER / f"{name}.yaml"
    known = yaml.safe_load(file.read_text()) if isinstance(name, str) and file.is_file() else {}
    profiles.changed(KINDS[path], known, list(changes), path)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


SNIPPETS = [(page, language, text) for page in PAGES for language, text in blocks(page) if language]


@pytest.mark.parametrize(
    ("page", "language", "text"), SNIPPETS, ids=[f"{p} {i}" for i, (p, *_) in enumerate(SNIPPETS)]
)
def test_a_snippet_is_what_it_seems(page: str, language: str, text: str) -> None:
    """Profiles validate, as one of `run` or of `adapt`; Python compiles, and what it imports is there."""
    match language:
        case "yaml":
            kind = profiles.AdaptProfile if page == "docs/adaptation.md" else profiles.Profile
            profiles.changed(kind, yaml.safe_load(text), [], page)
        case "json":
            [json.loads(line) for line in text.splitlines()]
        case "python":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(node.module or "")
                    assert all(hasattr(module, name.name) for name in node.names)
        case "text":
            pass  # a drawing
        case _:
            pytest.fail(f"{page}: no test knows blocks of {language}")


@pytest.mark.parametrize("page", PAGES)
def test_what_the_prose_names_is_there(page: str) -> None:
    """Commands, files, folders and tests in `code`."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", text):
        if (words := code.split())[0] == "llama2" and len(words) > 1 and words[1].isalpha():
            assert words[1] in COMMAND_NAMES, code
        if re.fullmatch(
            r"(llama2_core|storage|tasks|flows|deployments|tests|benchmarks|docs)/[\w/.-]+", code
        ):
            assert (ROOT / code).exists(), code


def test_a_wrong_command_would_be_found() -> None:
    with pytest.raises(UsageError):
        parse(LLAMA2, "llama2", ["convert", "sft", "there", "--to", "word"])
    with pytest.raises(ConfigError, match=r"recipe\.steps"):
        check_changes(*parse(LLAMA2, "llama2", ["run", "--set", "recipe.steps=3"]))


def test_every_page_is_on_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text()
    assert all(f": {page.removeprefix('docs/')}\n" in nav for page in PAGES if page.startswith("docs/"))


def test_the_figures_are_those_of_the_tables() -> None:
    for name, svg in results_figures.figures().items():
        assert (ROOT / "docs" / "figures" / name).read_text(encoding="utf-8") == svg, (
            "run benchmarks.results_figures"
        )


def test_the_lock_pins_what_the_constraints_pin_with_hashes() -> None:
    """But torch, whose build differs by index; and all that the default install declares is in it."""
    pins = set((ROOT / "constraints.txt").read_text().split())
    lines = [line.split() for line in (ROOT / "requirements.lock").read_text().splitlines()]
    assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", digest) for _, digest in lines)
    assert {canonical(pin) for pin, _ in lines} == {
        canonical(pin) for pin in pins if not pin.startswith("torch==")
    }
    wanted = [*project()["dependencies"], *project()["optional-dependencies"]["starter"]]
    locked = {canonical(pin).partition("==")[0] for pin, _ in lines}
    assert {canonical(Requirement(text).name) for text in wanted} - locked == {"torch"}


def canonical(pin: str) -> str:
    name, equals, version = pin.partition("==")
    return canonicalize_name(name) + equals + version


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it, from a copy: it writes beside its sources."""
    pytest.importorskip("zensical", reason="zensical, of the extra docs, is not installed")
    root = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", root)
    for name in ("docs", "llama2_core", "storage", "tasks", "flows"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "build" / "site"


@pytest.mark.parametrize("package", ["llama2_core", "storage", "tasks", "flows"])
def test_docstrings_hold_no_tags_that_a_page_would_follow(package: str) -> None:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = ast.get_docstring(node) if isinstance(node, documented) else None
            for line in (said or "").splitlines():
                code = line.startswith("    ")
                assert code or not re.search(r"<[/\w]", re.sub(r"`[^`]*`", "", line)), f"{path}: {line}"


@pytest.mark.slow
def test_the_site_asks_no_other_host_and_fits_a_phone(site: Path) -> None:
    assert "llama2_core.rlhf.ppo" in (site / "api" / "llama2_core.html").read_text()
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    server = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), server) as http, sync_playwright() as playwright:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{http.server_port}/"
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        view = browser.new_page(viewport={"width": 420, "height": 900})
        asked: list[str] = []
        view.on("request", lambda request: asked.append(request.url))
        for page in site.rglob("*.html"):
            view.goto(here + page.relative_to(site).as_posix(), wait_until="networkidle")
            assert view.evaluate("document.documentElement.scrollWidth") <= 420, page
        browser.close()
        http.shutdown()
    assert not [url for url in asked if not url.startswith((here, "data:", "blob:"))]
