"""Scrubbing of what reaches a private person: mail and IP addresses, phone, card and bank account numbers.

Llama 2 left out sites with much personal information (section 2.1); this replaces what other sites hold.
A test goes with every pattern (a checksum, an address range), so that years, ISBNs, version numbers and the
addresses of documentation stay.
"""

import re
from collections import Counter
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv6Address


def scrub_personal_data(text: str) -> tuple[str, Counter[str]]:
    """Return the text with placeholders such as "<email>", and how many of each kind were put in."""
    counts: Counter[str] = Counter()
    for kind, pattern, is_personal in _KINDS:
        pieces, end = [], 0
        for found in pattern.finditer(text):
            if is_personal(found[0]):
                pieces += [text[end : found.start()], f"<{kind}>"]
                end = found.end()
                counts[kind] += 1
        text = "".join(pieces) + text[end:]
    return text, counts


def passes_luhn(digits: str) -> bool:
    """Tell whether the last digit checks the others: ISO/IEC 7812-1, annex B."""
    doubled = [2 * int(digit) - 9 * (digit > "4") for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def passes_mod_97(iban: str) -> bool:
    """Tell whether an IBAN without spaces has the right check digits: ISO 13616, ISO 7064 mod 97-10."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def _is_private_mail(address: str) -> bool:
    """RFC 2606 reserves example.com and the like for documentation."""
    return not re.search(r"[@.](example(\.\w+)?|invalid|localhost|test)$", address, re.IGNORECASE)


def _is_public_ipv4(address: str) -> bool:
    """Four single digits are read as a version or a section number; private and documentation ranges stay."""
    try:
        return len(address) > len("1.2.3.4") and IPv4Address(address).is_global
    except AddressValueError:
        return False


def _is_public_ipv6(address: str) -> bool:
    """Global unicast is 2000::/3; three groups at least, since a[2000::5] is a slice."""
    try:
        parsed = IPv6Address(address)
    except AddressValueError:
        return False
    return (
        parsed.is_global
        and int(parsed) >> 125 == 1
        and len(address.replace("::", ":").strip(":").split(":")) > 2
    )


def _is_card(number: str) -> bool:
    digits = re.sub(r"\D", "", number)
    return bool(_ISSUERS.fullmatch(digits)) and passes_luhn(digits)


def _is_iban(number: str) -> bool:
    return passes_mod_97(number.replace(" ", ""))


def _is_phone(number: str) -> bool:
    """E.164 allows 15 digits; fewer than 8 are seldom a whole number."""
    return 8 <= sum(map(str.isdigit, number)) <= 15


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
_PHONE = "|".join(
    [
        r"\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}",  # +44 20 7946 0958
        r"\([2-9]\d\d\) ?[2-9]\d\d[ .-]\d{4}",  # (780) 800-7092
        r"(?:1-)?[2-9]\d\d-[2-9]\d\d-\d{4}",  # 780-800-7092
        r"[2-9]\d\d\.[2-9]\d\d\.\d{4}",  # 780.800.7092
        r"(?<!\d )0[1-9]\d{1,3}[ -]\d{3,4}[ -]\d{3,4}",  # 020 7946 0958
    ]
)

_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}\b"), _is_private_mail),
    ("iban", re.compile(rf"\b(?:{_IBAN})\b"), _is_iban),
    ("card", re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){13,15}(?![\w-]|\.\d)"), _is_card),
    ("ip", re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"), _is_public_ipv6),
    ("ip", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)"), _is_public_ipv4),
    ("phone", re.compile(rf"(?<![\w.+-])(?:{_PHONE})(?![\w-]|\.\d)"), _is_phone),
)
