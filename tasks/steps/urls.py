"""Block lists of hosts and of words in addresses, read from files: sites that are left out (Llama 2 section 2.1)."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from llama2_core.config import Record
from llama2_core.data.documents import Document, Drop, Verdict
from llama2_core.errors import DataError


class UrlRules(Record):
    """Files of one entry a line; # begins a comment. A document without an address passes."""

    host_files: tuple[str, ...] = ()
    """Files of hosts such as example.org, which stands for its subdomains too, and of sites: example.org/forum."""
    word_files: tuple[str, ...] = ()
    """Files of words; one that stands between other characters than letters and digits in an address blocks it."""


@dataclass(frozen=True)
class BlockLists:
    """What the files hold: a value to build once and hand to workers."""

    sites: frozenset[str]
    words: frozenset[str]


def read_block_lists(rules: UrlRules) -> BlockLists:
    """Read the files. Raises DataError naming file and line."""
    sites = frozenset(_entries(rules.host_files, _SITE, "a host, or a host and a path"))
    return BlockLists(sites, frozenset(_entries(rules.word_files, _WORD, "a word of letters and digits")))


def check_url(document: Document, lists: BlockLists) -> Verdict:
    """Drop a document whose host, one above it, or site is blocked, or whose address holds a blocked word."""
    address = document.url.lower()
    if site := next((site for site in _sites_of(address) if site in lists.sites), None):
        return Drop("blocked host", site)
    if words := lists.words.intersection(_WORD.findall(address)):
        return Drop("blocked word in url", min(words))
    return document


def host_of(url: str) -> str:
    """Return the host of an address in lower case, "" where there is none."""
    found = _ADDRESS.match(url.lower())
    return found["host"].rstrip(".") if found else ""


def _sites_of(address: str) -> Iterator[str]:
    """Yield the host and those above it, each alone and with every beginning of the path."""
    found = _ADDRESS.match(address)
    if found:
        names = found["host"].rstrip(".").split(".")
        paths = ["", *accumulate(f"/{part}" for part in found["path"].split("/") if part)]
        for level in range(len(names)):
            host = ".".join(names[level:])
            yield from (host + path for path in paths)


def _entries(files: Iterable[str], form: re.Pattern[str], what: str) -> Iterator[str]:
    for file in files:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"the block list {file} cannot be read: {error}. Correct its name, or leave it out."
            ) from error
        for number, line in enumerate(lines, 1):
            entry = line.partition("#")[0].strip().lower().rstrip("/")
            if entry and not form.fullmatch(entry):
                raise DataError(
                    f"{file}, line {number}: {entry!r} is not {what}. Correct it or put # before it."
                )
            if entry:
                yield entry


_ADDRESS = re.compile(
    r"(?:[a-z][a-z0-9+.-]*:)?(?://)?(?:[^/?#@]*@)?(?P<host>[^/?#:]+)(?::\d*)?(?P<path>[^?#]*)"
)
_SITE = re.compile(r"[^\s/:?#]+(?:/[^\s?#]+)?")
_WORD = re.compile(r"[^\W_]+")
