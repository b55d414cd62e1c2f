"""The Python language reference and the standard library's docstrings, from the running Python itself.

The text is the Python Software Foundation's (PSF licence) and differs a little from version to version, so
there is no hash that it must have: `topics_digest` and `docstrings_digest` name what was read. Sources are parsed,
never imported.
"""

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics as reference_topics

MODULES = """
    abc argparse ast asyncio base64 bdb bisect bz2 calendar cmd code codecs codeop collections compileall
    concurrent configparser contextlib copy csv ctypes dataclasses datetime dbm decimal difflib dis
    doctest email encodings.idna enum filecmp fileinput fnmatch fractions ftplib functools getopt getpass
    gettext glob graphlib gzip hashlib heapq hmac html http imaplib importlib inspect io ipaddress json
    keyword linecache locale logging lzma mailbox mimetypes multiprocessing netrc numbers operator
    optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint profile
    pstats py_compile pyclbr pydoc queue quopri random re reprlib rlcompleter runpy sched secrets
    selectors shelve shlex shutil smtplib socket socketserver sqlite3 ssl statistics string stringprep
    subprocess symtable sysconfig tabnanny tarfile tempfile textwrap threading timeit token tokenize trace
    traceback turtle types typing unittest urllib uuid venv warnings wave weakref webbrowser wsgiref xml
    xmlrpc zipapp zipfile zipimport _collections_abc _pydatetime _pydecimal _pyio
"""
"""Modules and packages whose docstrings are read, where this Python has them."""


def topics() -> Iterator[tuple[str, str]]:
    """Yield (id, text) of every section of the language reference.

    Python's help topics overlap: "compound" holds the whole of "if". One document a section lets exact
    deduplication see it.
    """
    for topic, text in sorted(reference_topics.items()):
        titles_and_bodies = _UNDERLINED.split(text)
        sections = zip(titles_and_bodies[1::2], titles_and_bodies[2::2], strict=True)
        for number, (title, body) in enumerate(sections, start=1):
            yield f"{topic}/{number}", f"{title}\n\n{body.strip()}"


def topics_digest() -> str:
    return hashlib.sha256(repr(sorted(reference_topics.items())).encode()).hexdigest()


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield (id, text): one document a module with its functions, one a public class with its methods."""
    for name, source in _modules():
        yield from _documents(name, ast.parse(source))


def docstrings_digest() -> str:
    found = hashlib.sha256()
    for name, source in _modules():
        found.update(name.encode() + b"\0" + source)
    return found.hexdigest()


def _modules() -> Iterator[tuple[str, bytes]]:
    """Yield (dotted name, source)."""
    library = Path(sysconfig.get_path("stdlib"))
    for module in MODULES.split():
        root = library / module.replace(".", "/")
        for file in sorted(root.rglob("*.py")) or [root.with_suffix(".py")]:
            if file.is_file() and not {"test", "tests", "__main__.py"} & set(file.parts):
                name = ".".join(file.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
                yield name, file.read_bytes()


_UNDERLINED = re.compile(r"^(\S.*)\n[*=~^\"-]{3,}\n", re.MULTILINE)


def _documents(module: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    if text := _described(module, tree):
        yield module, text
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            name = f"{module}.{node.name}"
            if text := _described(f"class {name}", node):
                yield name, text


def _described(title: str, node: ast.Module | ast.ClassDef) -> str:
    """Return what is said about a module or class, then about each of its public functions."""
    entries = [(title, ast.get_docstring(node))]
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(child.name):
            entries.append((f"{child.name}({ast.unparse(child.args)})", ast.get_docstring(child)))
    return "\n\n".join(f"{name}\n\n{text}" for name, text in entries if text)


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name.endswith("__")
