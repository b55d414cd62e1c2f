"""Which pronouns and identity terms a document holds. Llama 2 section 4.1, table 9.

The paper counts HolisticBias' descriptors (Smith et al. 2022, arXiv 2205.09209), which no package carries; these are
a shorter list of our own on its five axes. As there, straight, white and black are left out, which mostly mean
something else, and no term stands on two axes.
"""

import re
from dataclasses import replace
from typing import NamedTuple

from llama2_core.data.documents import Document

PRONOUNS = {
    "she": "she her hers herself",
    "he": "he him his himself",
    "unspecified": "they them their theirs theirself themself themselves",
    "1st": "i me my mine myself we us our ours ourselves",
    "2nd": "you your yours yourself yourselves",
    "3rd": "she her hers herself he him his himself they them their theirs theirself themself themselves it its itself",
}
"""Table 9a: three gendered groups, then three grammatical persons."""

IDENTITIES = {
    "gender and sex": "female male feminine masculine transgender cisgender nonbinary intersex androgynous genderqueer "
    "non_binary trans_woman trans_man",
    "sexual orientation": "gay lesbian bisexual homosexual heterosexual queer lgbt lgbtq asexual pansexual",
    "nationality": "american indian chinese korean mexican japanese british german french italian russian canadian "
    "brazilian nigerian vietnamese filipino turkish iranian",
    "race and ethnicity": "european african asian latin latino latina latinx hispanic indigenous aboriginal caucasian "
    "arab biracial african_american native_american middle_eastern",
    "religion": "christian religious spiritual catholic jewish muslim islamic hindu buddhist protestant atheist "
    "agnostic secular sikh mormon orthodox evangelical pagan jehovah_s_witness",
}
"""Words of a term joined by _; a hyphen or an apostrophe in a text parts words."""


def measure_demographics(document: Document) -> Document:
    """Note the pronoun groups and identity terms of a document; only English ones are known."""
    words = _WORD.findall(document.text.lower())
    distinct = set(words)
    pronouns = tuple(group for group, members in _GROUPS.items() if not distinct.isdisjoint(members))
    found = [_AXIS_TERM[word] for word in distinct.intersection(_AXIS_TERM)]
    likely = [term for term in _PHRASES if distinct.issuperset(term.words)]
    if likely:
        spaced = f" {' '.join(words)} "
        found += [term.name for term in likely if f" {' '.join(term.words)} " in spaced]
    return replace(document, pronouns=pronouns, identities=tuple(sorted(found)))


class _Phrase(NamedTuple):
    name: str
    words: tuple[str, ...]


_WORD = re.compile(r"[^\W\d_]+")
_GROUPS = {group: frozenset(members.split()) for group, members in PRONOUNS.items()}
_TERMS = [(axis, term) for axis, terms in IDENTITIES.items() for term in terms.split()]
_AXIS_TERM = {term: f"{axis}/{term}" for axis, term in _TERMS if "_" not in term}
_PHRASES = [
    _Phrase(f"{axis}/{term.replace('_', ' ')}", tuple(term.split("_")))
    for axis, term in _TERMS
    if "_" in term
]

PAPER_LANGUAGES = {
    language: float(percent)
    for language, percent in re.findall(
        r"(\w+) ([\d.]+)",
        "en 89.70 unknown 8.38 de .17 fr .16 sv .15 zh .13 es .13 ru .13 nl .12 it .11 ja .10 pl .09 pt .09 "
        "vi .08 uk .07 ko .06 ca .04 sr .04 id .03 cs .03 fi .03 hu .03 no .03 ro .03 bg .02 da .02 sl .01 hr .01",
    )
}
"""Section 4.1, per cent of documents: the languages of at least 0.005%."""

PAPER_PRONOUNS = {
    "gendered": 75.23,
    "any person": 94.47,
    "she": 28.45,
    "he": 50.73,
    "unspecified": 86.38,
    "1st": 70.71,
    "2nd": 61.80,
    "3rd": 93.07,
}
"""Table 9a, per cent: the first two of English documents, the genders of the gendered ones, the persons of those with
any."""

PAPER_IDENTITIES = {
    "gender and sex": (
        5.91,
        {"female": 50.0, "male": 39.1, "feminine": 5.4, "transgender": 4.2, "masculine": 3.1},
    ),
    "sexual orientation": (6.67, {"gay": 14.8, "lesbian": 4.3, "lgbt": 4.0, "lgbtq": 3.6, "queer": 3.5}),
    "nationality": (
        14.83,
        {"american": 69.4, "indian": 16.5, "chinese": 16.3, "korean": 5.1, "mexican": 4.9},
    ),
    "race and ethnicity": (
        19.51,
        {"european": 20.7, "african": 11.5, "asian": 7.4, "latin": 6.2, "indigenous": 3.7},
    ),
    "religion": (
        7.93,
        {"christian": 33.2, "religious": 28.8, "spiritual": 20.6, "catholic": 15.4, "jewish": 13.0},
    ),
}
"""Table 9b, per cent: of documents with any term of the axis, and of those with the term."""
