"""National identity, tax and health numbers of persons, checked by python-stdnum.

A form that ordinary numbers do not have is enough with its check digits; bare digits need the number's name before
them.
"""

import re
from collections.abc import Callable

from stdnum.au import tfn
from stdnum.be import nn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.cl import rut
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar, pan
from stdnum.iso7064 import mod_11_2
from stdnum.it import codicefiscale
from stdnum.kr import rrn
from stdnum.mx import curp
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.tr import tckimlik
from stdnum.us import ssn
from stdnum.za import idnr as za_idnr

from llama2_core.data.personal import Kind, words_before

Check = Callable[[str], bool]


def _is_nino(number: str) -> bool:
    """HMRC's manual NIM39110: the pattern leaves out D, F, I, Q, U, V and O; these prefixes are not given."""
    return number[:2] not in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}


_FORMS: tuple[tuple[str, Check], ...] = (
    (r"\d{3}-\d\d-\d{4}", ssn.is_valid),
    (r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]", _is_nino),
    (r"[12] ?\d\d ?\d\d ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d", nir.is_valid),
    (r"\d{8}-?[A-Z]", dni.is_valid),
    (r"[XYZ]-?\d{7}-?[A-Z]", nie.is_valid),
    (r"[A-Z]{6}[\dL-NP-V]{2}[A-EHLMPR-T][\dL-NP-V]{2}[A-Z][\dL-NP-V]{3}[A-Z]", codicefiscale.is_valid),
    (r"[1-9]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dX]", mod_11_2.is_valid),
    (r"\d{3}\.\d{3}\.\d{3}-\d\d", cpf.is_valid),
    (r"\d{1,2}\.\d{3}\.\d{3}-[\dK]", rut.is_valid),
    (r"(?:\d\d)?\d{6}[-+]\d{4}", personnummer.is_valid),
    (r"\d{6}[-+A]\d{3}[\dA-Y]", hetu.is_valid),
    (r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d", nn.is_valid),
    (r"\d{6}-[1-8]\d{6}", rrn.is_valid),
    (r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z\d]\d", curp.is_valid),
    (r"[A-Z]{3}P[A-Z]\d{4}[A-Z]", pan.is_valid),
)
"""US, UK, France, Spain (2), Italy, China, Brazil, Chile, Sweden, Finland, Belgium, Korea, Mexico, India (persons)."""

_NAMES: tuple[tuple[str, Check], ...] = (
    ("ssn security", ssn.is_valid),
    ("steuer identifikationsnummer idnr", idnr.is_valid),
    ("bsn burgerservicenummer sofinummer", bsn.is_valid),
    ("aadhaar aadhar uidai", aadhaar.is_valid),
    ("SIN insurance", sin.is_valid),
    ("nhs", nhs.is_valid),
    ("tfn", tfn.is_valid),
    ("cpf", cpf.is_valid),
    ("cpr", cpr.is_valid),
    ("personnummer", personnummer.is_valid),
    ("fødselsnummer", fodselsnummer.is_valid),
    ("pesel", pesel.is_valid),
    ("kimlik tckn", tckimlik.is_valid),
    ("identity id", za_idnr.is_valid),
)
"""US, Germany, Netherlands, India, Canada (in Spanish "sin" means without), UK, Australia, Brazil, Denmark,
Sweden, Norway, Poland, Turkey, South Africa."""

_COMPILED_FORMS = [(re.compile(form), check) for form, check in _FORMS]
_CHECKS = {word: check for words, check in _NAMES for word in words.split()}


def _has_form(found: re.Match[str]) -> bool:
    return any(form.fullmatch(found[0]) and check(found[0]) for form, check in _COMPILED_FORMS)


def _has_name(found: re.Match[str]) -> bool:
    """The words before a number are looked up as they stand, then in lower case."""
    words = words_before(found, characters=32)
    checks = [_CHECKS.get(word) or _CHECKS.get(word.lower()) for word in words]
    digits = re.sub(r"\D", "", found[0])
    return any(check(digits) for check in checks if check)


_ANY_FORM = re.compile(
    rf"(?<![0-9A-Za-z_.+-])(?:{'|'.join(form for form, _ in _FORMS)})(?![0-9A-Za-z_-]|\.\d)"
)
_DIGITS = re.compile(r"(?<![0-9A-Za-z_.+-])\d(?:[ ./-]?\d){7,12}(?![0-9A-Za-z_-]|\.\d)")

NATIONAL_IDS = (Kind("id", _ANY_FORM, _has_form), Kind("id", _DIGITS, _has_name))
