"""Phone numbers: a few ways of writing one, each valid to phonenumbers in some country."""

import re
from collections.abc import Sequence
from functools import lru_cache, partial

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat

from llama2_core.data.personal import Kind, words_before

REGIONS = (
    *("US", "GB", "DE", "FR", "IT", "ES", "NL", "BE", "CH", "AT"),
    *("PL", "SE", "IN", "CN", "JP", "KR", "AU", "BR", "MX", "ZA"),
)


@lru_cache(maxsize=8)
def phone_kind(regions: Sequence[str]) -> Kind:
    """Return how phone numbers are found: international ones, and those written as in one of the regions."""
    return Kind("phone", _PHONE, partial(_is_phone, regions=regions))


def _is_phone(found: re.Match[str], regions: Sequence[str]) -> bool:
    """A number in its country's own grouping says what it is; others need a word such as "tel." before them."""
    role = _role(found)
    if role == "part number":
        return False
    if found["international"]:
        return _parse(found[0], None) is not None
    if found["american"]:
        return _parse(found[0], "US") is not None
    groups = _groups(found[0])
    if role != "phone" and not (found["trunk"] and sum(map(len, groups)) >= 9):
        return False
    numbers = filter(None, (_parse(found[0], region) for region in regions))
    return any(role == "phone" or groups == _groups(_national(number)) for number in numbers)


def _role(found: re.Match[str]) -> str | None:
    """Return what the nearest telling word just before a number says that it is."""
    return next((_ROLES[word] for word in map(str.lower, words_before(found)) if word in _ROLES), None)


def _parse(written: str, region: str | None) -> PhoneNumber | None:
    """Return the number if it can be one that someone has."""
    try:
        number = phonenumbers.parse(written, region)
    except NumberParseException:
        return None
    return number if phonenumbers.is_valid_number(number) else None


def _national(number: PhoneNumber) -> str:
    return phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)


def _groups(written: str) -> list[str]:
    return re.findall(r"\d+", written)


_PHONE = re.compile(
    r"""(?<![0-9A-Za-z_.+-])(?:
      (?P<international> \+ (?!\d+\.\d+(?![ .-]?\d))                        # +49.796276 is a decimal
        [1-9]\d{0,2} [ .-]? (?:\(\d{1,4}\)[ .-]?)? \d{1,4} (?:[ ./-]?\d{2,8}){1,4}) # +44 20 7946 0958
    | (?P<american> (?:1[ -])?\([2-9]\d\d\)[ ]?[2-9]\d\d[ .-]\d{4}         # (780) 800-7092
        | (?:1-)?[2-9]\d\d-[2-9]\d\d-\d{4} | [2-9]\d\d\.[2-9]\d\d\.\d{4})  # 780-800-7092, 780.800.7092
    | (?P<trunk> (?<!\d[ ])\(?0\d{1,5}\)? (?:[ /-]\d{2,9}){1,4})           # 020 7946 0958, 030 1234567
    | \(?\d{2,5}\)? (?:[ ./-]?\d{2,8}){1,4}                               # 98765 43210, if named
    )(?![0-9A-Za-z_-]|\.\d)""",
    re.VERBOSE,
)
_PHONE_WORDS = (
    "tel phone telephone mobile mob cell fax call ring whatsapp ph telefon tél téléphone portable handy telefono "
    "teléfono móvil cellulare celular telefone telefoon 电话 手机 電話 전화"
)
_PART_WORDS = (
    "part pn model item serial order invoice sku ean isbn issn lccn oclc doi cas patent case lot batch no"
)
_ROLES = dict.fromkeys(_PHONE_WORDS.split(), "phone") | dict.fromkeys(_PART_WORDS.split(), "part number")
