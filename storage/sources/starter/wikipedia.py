"""Wikipedia articles in English and Bulgarian, from the dumps that gensim carries for its own tests.

The text is CC BY-SA, as all of Wikipedia's. gensim strips the markup; here is only what it leaves undone:
templates that stand for words, formulas, tables, pictures, and the sections that hold no prose.
"""

import bz2
import re
from collections.abc import Iterator
from typing import Literal

from storage.sources.packages import package_file, package_module

DUMPS = {
    "en": (
        "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
        "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
    ),
    "bg": (
        "gensim/test/test_data/bgwiki-latest-pages-articles-shortened.xml.bz2",
        "8c67571ec18cb8f0f77a91ab2ee4a04c9368684358e40b94d95670f909210355",
    ),
}
"""Path inside gensim 4.4.0 and SHA-256, by language."""

REDIRECT = re.compile(r"\s*#\s*(redirect|виж|пренасочване)", re.IGNORECASE)

WORDLESS_SECTION = re.compile(
    "references|notes|footnotes|citations|sources|bibliography|works cited|further reading|external links"
    "|see also|gallery|notes and references|references and notes|general references|primary sources"
    "|secondary sources|източници|бележки|външни препратки|вижте също|литература",
    re.IGNORECASE,
)
"""Headings of sections that hold links and citations; their subsections go with them."""

DECORATION = re.compile(
    r"angbr|big|blockquote|flag|ipa|lang|lang-[\w-]+|linktext|nobr|nowrap|quote|rtl-lang|sc|small|smaller|transl"
)
"""Templates of which the reader sees the last argument, adorned."""


def articles(language: Literal["en", "bg"]) -> Iterator[tuple[str, str, str]]:
    """Yield (page id, title, wikitext) of every article; redirects and other namespaces are left out."""
    dump = package_file("gensim", *DUMPS[language])
    wikicorpus = package_module("gensim", "gensim.corpora.wikicorpus")
    with bz2.open(dump) as pages:
        for title, wikitext, page_id in wikicorpus.extract_pages(pages, filter_namespaces=("0",)):
            if wikitext and not REDIRECT.match(wikitext):
                yield page_id, title, wikitext


def plain_text(wikitext: str) -> str:
    """Return the prose: an empty line before paragraphs and headings, "- " before list items.

    Formulas stay as TeX between dollar signs; pictures, tables, footnotes and reference sections go.
    """
    filter_wiki = package_module("gensim", "gensim.corpora.wikicorpus").filter_wiki
    for pattern in (_COMMENT, _FOOTNOTE, _NOT_PROSE):
        wikitext = pattern.sub("", wikitext)
    wikitext = _FORMULA.sub(lambda formula: f"${' '.join(formula[1].split()).translate(_HIDE)}$", wikitext)
    wikitext = _SUPERSCRIPT.sub(r"^\1", _LINE_BREAK.sub(" ", wikitext))
    for pattern, replacement in ((_TEMPLATE, _visible_words), (_TABLE, ""), (_PICTURE, "")):
        wikitext = _replace_from_within(pattern, replacement, wikitext)
    text = filter_wiki(wikitext)
    for pattern, replacement in _TIDYING:
        text = pattern.sub(replacement, text)
    return "".join(_blocks(text.splitlines())).strip().translate(_SHOW)


_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FOOTNOTE = re.compile(r"<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref\s*>", re.DOTALL | re.IGNORECASE)
_NOT_PROSE = re.compile(r"<(gallery|timeline|imagemap|score)\b.*?</\1>", re.DOTALL | re.IGNORECASE)
_FORMULA = re.compile(r"<math\b[^>]*>(.*?)</math>", re.DOTALL)
_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_SUPERSCRIPT = re.compile(r"<sup>([^<>]*)</sup>", re.IGNORECASE)
_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
_TABLE = re.compile(r"^[ :]*\{\|(?:(?!^[ :]*\{\|).)*?^ *\|\}", re.DOTALL | re.MULTILINE)
_PICTURE = re.compile(
    r"\[\[ *(?:File|Image|Файл|Картинка):(?:[^\[\]]|\[\[[^\[\]]*\]\]|\[[^\[\]]*\])*\]\]", re.IGNORECASE
)

_MARKUP = "{}[]<>|'&!="
_HIDDEN = "".join(chr(0xE000 + place) for place in range(len(_MARKUP)))
_HIDE, _SHOW = str.maketrans(_MARKUP, _HIDDEN), str.maketrans(_HIDDEN, _MARKUP)
"""Private-use characters carry a formula's own braces and bars past the stripping of markup."""

_ARGUMENT_BAR = re.compile(r"\|(?![^\[]*\]\])")
_NAMED_ARGUMENT = re.compile(r"\s*[\w -]+=")

_TIDYING = (
    (re.compile(r"'{2,}|__[A-Z]+__"), ""),
    (re.compile(r"[ \t\xa0]+"), " "),
    (re.compile(r"\( ?(?:[;,:] ?)+"), "("),
    (re.compile(r"(?: ?[;,:])+ ?\)"), ")"),
    (re.compile(r" ?\( ?\)"), ""),
    (re.compile(r"(?<=\w) ([,.;:)])(?= |$)", re.MULTILINE), r"\1"),
)
_HEADING = re.compile(r"(={2,6}) *(.*?) *=+ *$")
_LIST_ITEM = re.compile(r"[*#]+[:*# ]*")


def _replace_from_within(pattern: re.Pattern, replacement, text: str) -> str:
    """Substitute until nothing changes, since what a match encloses may have hidden the one around it."""
    while (shorter := pattern.sub(replacement, text)) != text:
        text = shorter
    return text


def _visible_words(template: re.Match) -> str:
    """Return what a template shows inside a sentence; most (boxes, citations, icons) show nothing there."""
    name, *arguments = _ARGUMENT_BAR.split(template[1])
    name = name.strip().lower()
    arguments = [argument.strip() for argument in arguments if not _NAMED_ARGUMENT.match(argument)]
    match name, arguments:
        case (("convert" | "cvt"), [number, "to" | "-" | "–" | "and" | "by" | "x" as joint, other, unit, *_]):
            return f"{number} {joint} {other} {unit}"
        case (("convert" | "cvt"), [number, unit, *_]):
            return f"{number} {unit}"
        case "as of", [date, *_]:
            return f"as of {date}"
        case "chem", formula:
            return "".join(formula)
        case (("nihongo" | "val"), [words, *_]):
            return words
        case _, [*_, words] if DECORATION.fullmatch(name):
            return words
    return ""


def _blocks(lines: list[str]) -> Iterator[str]:
    """Yield each line that holds words, led by its line breaks; a heading waits for words beneath it."""
    headings: list[tuple[int, str]] = []
    wordless_below = 0
    for line in lines:
        if heading := _HEADING.match(line):
            level, title = len(heading[1]), heading[2]
            if wordless_below and level > wordless_below:
                continue
            wordless_below = level if WORDLESS_SECTION.fullmatch(title) else 0
            headings = [(above, name) for above, name in headings if above < level] + [(level, title)]
        elif not wordless_below and any(map(str.isalpha, line)):
            yield from (f"\n\n{title}" for _, title in headings)
            headings = []
            if item := _LIST_ITEM.match(line):
                yield f"\n- {line[item.end() :].strip()}"
            else:
                yield f"\n\n{line.lstrip(' :;').rstrip()}"
