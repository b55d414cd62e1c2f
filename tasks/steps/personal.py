"""Personal data: the core's mail and IP addresses, cards and accounts, with national ids and phone numbers added.

python-stdnum checks ids, phonenumbers phones. Where a checksum is weak or there is none, a word such as "BSN" or
"tel." must stand before the number.
"""

from collections import Counter
from dataclasses import replace
from typing import Literal

from llama2_core.config import PositiveFloat, Record
from llama2_core.data.documents import Document, Drop, Verdict, words_of
from llama2_core.data.personal import ADDRESSES, NUMBERS, scrub
from tasks.steps.national_ids import NATIONAL_IDS
from tasks.steps.phones import REGIONS, phone_kind


class PersonalData(Record):
    """What is replaced by placeholders. Llama 2 section 2.1 leaves out sites with much of it."""

    kinds: tuple[Literal["email", "ip", "iban", "card", "id", "phone"], ...] = (
        "email",
        "ip",
        "iban",
        "card",
        "id",
        "phone",
    )
    """Kinds to replace."""
    phone_regions: tuple[str, ...] = REGIONS
    """Countries whose national way of writing phone numbers is known; international ones are found from all. Ours."""
    most_per_thousand_words: PositiveFloat | None = None
    """Drop a document with more. Absent: none is dropped. Llama 2 prints no number."""


EVERYTHING = PersonalData()


def scrub_document(document: Document, rules: PersonalData) -> Verdict:
    """Replace personal data and note each in `changes`, or drop a document that has too many."""
    text, counts = scrub_personal_data(document.text, rules)
    if not counts:
        return document
    density = 1000 * counts.total() / max(len(words_of(text)), 1)
    if rules.most_per_thousand_words and density > rules.most_per_thousand_words:
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        return Drop("much personal data", f"{kinds}: {density:.0f} in 1000 words")
    return replace(document, text=text, changes=(*document.changes, *counts.elements()))


def scrub_personal_data(text: str, rules: PersonalData = EVERYTHING) -> tuple[str, Counter[str]]:
    """Return the text with placeholders such as `<phone>`, and how many of each kind were put in."""
    addresses = [kind for kind in ADDRESSES if kind.name in rules.kinds]
    all_numbers = (*NUMBERS, *NATIONAL_IDS, phone_kind(rules.phone_regions))
    numbers = [kind for kind in all_numbers if kind.name in rules.kinds]
    return scrub(text, addresses, numbers)
