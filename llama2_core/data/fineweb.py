"""FineWeb's own rules: pages that are lists, menus or boilerplate.

Penedo et al. 2024 (arXiv 2406.17557), section 3.6.
"""

from llama2_core.config import Natural, NaturalFloat, Record, Share
from llama2_core.data.page import Findings, Page, above, below
from llama2_core.data.repetition import duplicate_shares


class FineWebRules(Record):
    """How much of a page may look like a list. FineWeb, section 3.6; the fourth rule is in its code only."""

    min_punctuated_lines: Share = 0.12
    """Smallest share of lines that end a sentence. FineWeb: 0.12."""
    max_short_lines: Share = 0.67
    """Largest share of short lines. FineWeb: 0.67."""
    short_line_characters: Natural = 30
    """Longest short line. FineWeb: 30."""
    max_duplicate_line_characters: Share = 0.01
    """Largest share of characters in repeated lines. FineWeb's code: 0.01; its paper prints 0.1."""
    max_newlines_per_word: NaturalFloat = 0.3
    """Most line ends a word. FineWeb's code: 0.3."""


def list_findings(page: Page, limits: FineWebRules) -> Findings:
    lines = page.lines
    punctuated = sum(line[-1] in SENTENCE_ENDS for line in lines) / len(lines)
    yield "fineweb: lines without punctuation", below(punctuated, limits.min_punctuated_lines)
    short = sum(len(line) <= limits.short_line_characters for line in lines) / len(lines)
    yield "fineweb: short lines", above(short, limits.max_short_lines)
    _, characters = duplicate_shares(lines)
    yield "fineweb: repeated line characters", above(characters, limits.max_duplicate_line_characters)
    newlines = page.text.count("\n") / len(page.words)
    yield "fineweb: newlines", above(newlines, limits.max_newlines_per_word)


SENTENCE_ENDS = frozenset(
    "!.?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫"
    "﹒﹖﹗！．？｡𐩖𐩗𐽕𐽖𐽗𐽘𐽙𐾆𐾇𐾈𐾉𑁇𑁈𑂾𑂿𑃀𑃁𑅁𑅂𑅃𑇅𑇆𑇍𑇞𑇟𑈸𑈹𑈻𑈼𑊩𑑋𑑌𑗂𑗃𑗉𑗊𑗋𑗌𑗍𑗎𑗏𑗐𑗑𑗒𑗓𑗔𑗕𑗖𑗗𑙁𑙂𑜼𑜽𑜾𑥄𑥆𑩂𑩃𑪛𑪜𑱁𑱂𑻷𑻸𑽃𑽄𖩮𖩯𖫵𖬷𖬸𖭄𖺘𛲟𝪈"
)
"""Unicode's Sentence_Terminal characters, as datatrove lists them."""
