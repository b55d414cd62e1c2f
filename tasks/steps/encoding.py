"""Repair of text that was decoded wrongly on its way here ("donâ€™t"), by ftfy; then the normal form."""

import re
from dataclasses import replace

import ftfy
from ftfy.fixes import unescape_html

from llama2_core.config import Record
from llama2_core.data.documents import Document, normalise


class EncodingRepair(Record):
    """What is repaired. Only faults of encoding: quotes, ligatures and wide characters stay as they were meant."""

    unescape_html: bool = False
    """Turn &lt; and the like into characters. datatrove does; off here, since texts on HTML mean them."""


def repair_encoding(document: Document, rules: EncodingRepair) -> Document:
    """Return the document in normal form, its mojibake repaired and, where there was some, noted in `changes`."""
    text = unescape_html(document.text) if rules.unescape_html else document.text
    if not text.isascii():
        text = "\n".join(
            ftfy.fix_text(line, _FAULTS) if _SUSPECT.search(line) else line for line in text.split("\n")
        )
    normal = normalise(text)
    if text == document.text or normal == normalise(document.text):
        return replace(document, text=normal)
    return replace(document, text=normal, changes=(*document.changes, "encoding"))


_SUSPECT = re.compile("[^\x00-\x7f]{2}|[\x80-\x9f]|[ÃÂ] |[Œœ][^A-Za-z]")
"""What ftfy's badness needs at the least: looking for it first makes the step ten times as fast on English."""

_FAULTS = ftfy.TextFixerConfig(
    unescape_html=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    remove_terminal_escapes=False,
    remove_control_chars=False,
    normalization=None,
)
