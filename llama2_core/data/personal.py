"""Scrubbing of what reaches a private person: here mail and IP addresses, card and bank account numbers.

Llama 2 left out sites with much personal information (section 2.1); this replaces what other sites hold.
A test goes with every pattern (a checksum, an address range), so that years, ISBNs, version numbers and the
addresses of documentation stay.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple


class Kind(NamedTuple):
    """What a personal datum looks like, and the test that tells it from its look-alikes."""

    name: str
    pattern: re.Pattern[str]
    is_personal: Callable[[re.Match[str]], bool]


def scrub(text: str, addresses: Sequence[Kind], numbers: Sequence[Kind]) -> tuple[str, Counter[str]]:
    """Return the text with placeholders such as `<email>`, and how many of each kind were put in.

    Numbers are looked for in stretches of capitals and digits only, addresses everywhere; of two that overlap the
    kind named first is meant.
    """
    counts: Counter[str] = Counter()
    pieces, end = [], 0
    for start, stop, kind in sorted(_without_overlaps(_findings(text, addresses, numbers))):
        pieces += [text[end:start], f"<{kind}>"]
        end = stop
        counts[kind] += 1
    return "".join(pieces) + text[end:], counts


def words_before(found: re.Match[str], characters: int = 24) -> list[str]:
    """Return the words that end so near before a match, the nearest first; of Chinese or Korean the last two signs."""
    return _WORD.findall(found.string, max(0, found.start() - characters), found.start())[::-1]


def _findings(
    text: str, addresses: Sequence[Kind], numbers: Sequence[Kind]
) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, kind), kind by kind."""
    whole = [(0, len(text))] if _ADDRESS_HINT.search(text) else []
    stretches = [found.span() for found in _STRETCH.finditer(text) if _may_be_personal(found[0])]
    for kinds, places in ((addresses, whole), (numbers, stretches)):
        for kind in kinds:
            for start, end in places:
                # One character more: a pattern must see that a word goes on.
                for found in kind.pattern.finditer(text, start, end + 1):
                    if kind.is_personal(found):
                        yield *found.span(), kind.name


def _may_be_personal(stretch: str) -> bool:
    """The shortest number of a person has eight letters and digits, four of them digits."""
    return sum(map(str.isdigit, stretch)) >= 4 and sum(map(str.isalnum, stretch)) >= 8


def _without_overlaps(findings: Iterator[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    kept: list[tuple[int, int, str]] = []
    for start, end, kind in findings:
        if all(end <= other_start or other_end <= start for other_start, other_end, _ in kept):
            kept.append((start, end, kind))
    return kept


def passes_luhn(digits: str) -> bool:
    """Tell whether the last digit checks the others: ISO/IEC 7812-1, annex B."""
    doubled = [2 * int(digit) - 9 * (digit > "4") for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def passes_mod_97(iban: str) -> bool:
    """Tell whether an IBAN without spaces has the right check digits: ISO 13616, ISO 7064 mod 97-10."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def _is_private_mail(found: re.Match[str]) -> bool:
    """RFC 2606 reserves example.com and the like for documentation."""
    return not re.search(r"[@.](example(\.\w+)?|invalid|localhost|test)$", found[0], re.IGNORECASE)


def _is_public_ipv4(found: re.Match[str]) -> bool:
    """Four single digits are read as a version or a section number; private and documentation ranges stay."""
    if len(found[0]) == len("1.2.3.4") or _NUMBERED.search(found.string[: found.start()][-16:]):
        return False
    try:
        return IPv4Address(found[0]).is_global
    except AddressValueError:
        return False


def _is_public_ipv6(found: re.Match[str]) -> bool:
    """Global unicast is 2000::/3; three groups at least, since a[2000::5] is a slice."""
    try:
        parsed = IPv6Address(found[0])
    except AddressValueError:
        return False
    return (
        parsed.is_global
        and int(parsed) >> 125 == 1
        and len(found[0].replace("::", ":").strip(":").split(":")) > 2
    )


def _is_card(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found[0])
    return bool(_ISSUERS.fullmatch(digits)) and passes_luhn(digits)


def _is_iban(found: re.Match[str]) -> bool:
    return passes_mod_97(found[0].replace(" ", ""))


_NUMBERED = re.compile(
    r"(?:section|chapter|clause|version|release|build|firmware|§|\bEC|\bv)[. ]*$", re.IGNORECASE
)
_ISSUERS = re.compile(
    r"4\d{15}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|35\d{14}|6(?:011|4[4-9]\d|5\d\d)\d{12}"
)
"""Visa, Mastercard (two ranges), American Express, Diners, JCB, Discover."""

_IBAN_LENGTHS = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH DE GB GE IE ME RS",
    23: "AE GI IL",
    24: "AD CZ ES MD PK RO SA SE SK TN",
    25: "PT",
    26: "IS TR",
    27: "FR GR IT MC SM",
    28: "AL AZ CY DO HU LB PL",
    29: "BR QA UA",
}
"""ISO 13616 registry: characters of an account number, by country."""

_IBAN = "|".join(
    rf"(?:{countries.replace(' ', '|')})\d\d(?: ?[A-Z0-9]){{{length - 4}}}"
    for length, countries in _IBAN_LENGTHS.items()
)
_WORD = re.compile(r"(?<![^\W\d_])[a-zß-ỿ]+|[㐀-鿿가-힣]{2}(?=[\W_]*\Z)", re.IGNORECASE)
_ADDRESS_HINT = re.compile(r"@|:[0-9A-Fa-f]{0,4}:|\.\d{1,3}\.\d")
_STRETCH = re.compile(r"[+(]{0,2}[A-Z0-9][A-Z0-9 ()./+-]{5,}[A-Z0-9]")

ADDRESSES = (
    Kind("email", re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}\b"), _is_private_mail),
    Kind(
        "ip", re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"), _is_public_ipv6
    ),
    Kind("ip", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)"), _is_public_ipv4),
)
NUMBERS = (
    Kind("iban", re.compile(rf"\b(?:{_IBAN})\b"), _is_iban),
    Kind("card", re.compile(r"(?<![0-9A-Za-z_.,-])\d(?:[ -]?\d){13,15}(?![0-9A-Za-z_-]|\.\d)"), _is_card),
)
