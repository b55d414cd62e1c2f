"""Published rules for dropping text that is not prose: Gopher's, C4's, FineWeb's."""

from dataclasses import replace
from itertools import chain

from llama2_core.config import Record
from llama2_core.data.c4 import C4Rules, page_findings, strip_lines
from llama2_core.data.documents import Document, Drop, Verdict
from llama2_core.data.fineweb import FineWebRules, list_findings
from llama2_core.data.gopher import (
    GopherQuality,
    GopherRepetition,
    length_findings,
    repetition_findings,
    shape_findings,
)
from llama2_core.data.page import Findings, Page


class QualityRules(Record):
    """All thresholds of the quality step; null leaves a group of rules out.

    They were made for English: Gopher's count words between spaces, and its stop words are English.
    """

    gopher: GopherQuality | None = GopherQuality()
    """Length, words, symbols, bullets, stop words."""
    repetition: GopherRepetition | None = GopherRepetition()
    """Repeated lines, paragraphs and n-grams."""
    c4: C4Rules | None = C4Rules()
    """Placeholder text, braces, lines that are no sentences."""
    fineweb: FineWebRules | None = None
    """Lists, menus and boilerplate. They drop poems, tables and code."""


def check_quality(document: Document, rules: QualityRules) -> Verdict:
    """Strip the lines that the rules refuse, and drop the document if what is left breaks one."""
    text = strip_lines(document.text, rules.c4) if rules.c4 else document.text
    return quality_verdict(text, rules) or (
        document if text == document.text else replace(document, text=text)
    )


def quality_verdict(text: str, rules: QualityRules) -> Drop | None:
    """Return the first rule that the text breaks, or None."""
    return next((Drop(reason, detail) for reason, detail in quality_findings(text, rules) if detail), None)


def quality_findings(text: str, rules: QualityRules) -> Findings:
    """Yield every rule, the cheap ones first; those behind a broken one may find nothing to divide by."""
    page = Page(text)
    return chain(
        length_findings(page, rules.gopher) if rules.gopher else (),
        page_findings(page, rules.c4) if rules.c4 else (),
        shape_findings(page, rules.gopher) if rules.gopher else (),
        repetition_findings(page, rules.repetition) if rules.repetition else (),
        list_findings(page, rules.fineweb) if rules.fineweb else (),
    )
