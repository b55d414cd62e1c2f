"""C4's rules for whole pages (drop) and single lines (strip), and those that only its code has.

Raffel et al. 2020 (arXiv 1910.10683), section 2.2; its code is `c4_utils.clean_page` of tensorflow_datasets. Left
out: the list of bad words, because Llama 2 keeps toxic text on purpose (section 4.1).
"""

import re

from llama2_core.config import Natural, Positive, Record
from llama2_core.data.documents import words_of
from llama2_core.data.page import Findings, Page, below


class C4Rules(Record):
    """C4's rules for whole pages (drop) and for single lines (strip). C4, section 2.2."""

    drop_lorem_ipsum: bool = True
    """Drop a page with the placeholder text "lorem ipsum". C4, section 2.2."""
    drop_curly_braces: bool = False
    """Drop a page with a curly brace. C4 does; off here, since code and formulas are wanted."""
    min_sentences: Natural = 0
    """Fewest sentences of a page after stripping. C4: 3, datatrove 5; off here, since short texts are wanted."""
    strip_javascript_warnings: bool = True
    """Strip lines that ask for JavaScript. C4 strips all that name it; prose about it stays here."""
    strip_javascript: bool = False
    """Strip every line that names JavaScript, as C4 does."""
    strip_fragments: bool = False
    """Strip lines that do not end in a full stop or quotation mark, or do in "...". C4 does; headings are wanted."""
    strip_policies: bool = False
    """Strip lines that speak of cookies, terms of use or a privacy policy. C4's code does; prose on law is wanted."""
    strip_citations: bool = False
    """Strip marks such as [1], [edit] and [citation needed] from lines. C4's code does."""
    min_line_words: Natural = 0
    """Lines of fewer words are stripped. C4: 5, datatrove 3; off here, since headings are wanted."""
    max_word_characters: Positive | None = None
    """Lines with a longer word are stripped. C4's code: 1000; absent here, since Thai has no spaces."""


def strip_lines(text: str, rules: C4Rules) -> str:
    """Return the text without the lines that the line rules refuse; empty lines stay."""
    if rules.strip_citations:
        text = _CITATION.sub("", text)
    return "\n".join(line for line in text.split("\n") if not line or _is_welcome(line, rules))


def page_findings(page: Page, rules: C4Rules) -> Findings:
    """What a page must be, once its lines are stripped."""
    has_lorem_ipsum = rules.drop_lorem_ipsum and "lorem ipsum" in page.text.lower()
    yield "c4: lorem ipsum", "lorem ipsum" if has_lorem_ipsum else None
    yield "c4: curly brace", "{ or }" if rules.drop_curly_braces and _BRACE.search(page.text) else None
    if rules.min_sentences:
        yield "c4: too few sentences", below(sentence_count(page.lines), rules.min_sentences)


def sentence_count(lines: list[str]) -> int:
    """Return how many sentences the lines hold; none runs over a line's end."""
    return sum(len(_SENTENCE_BREAK.findall(line.rstrip())) + 1 for line in lines)


def _is_welcome(line: str, rules: C4Rules) -> bool:
    if rules.min_line_words and len(words_of(line)) < rules.min_line_words:
        return False
    longest = rules.max_word_characters
    if longest and len(line) > longest and max(map(len, words_of(line)), default=0) > longest:
        return False
    lower = line.lower()
    if "javascript" in lower and (
        rules.strip_javascript or (rules.strip_javascript_warnings and _DEMAND.search(line))
    ):
        return False
    if rules.strip_policies and any(phrase in lower for phrase in _POLICIES):
        return False
    return not rules.strip_fragments or bool(_SENTENCE_END.search(line.rstrip()))


_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_BRACE = re.compile("[{}]")
_DEMAND = re.compile(r"\b(enabled?|disabled?|turned? o(n|ff)|requires?|supports?)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<!\.\.)[.!?][\"'”’)]*$|[\"”]$")
_SENTENCE_BREAK = re.compile(
    r"(?<!\b[A-Z])(?<!\b[MDJS][rt])[.!?…]+[\"'”’)\]]*(?=\s)"  # not after an initial, Mr., Dr., Jr. or St.
    r"|[。！？]+[」』”’]*(?=\S)"
)
_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
