"""A labelled set of 500: sentences with a planted personal datum, and others whose numbers only look like one.

In a pattern # is any digit, & any capital letter, ~ any hexadecimal digit; the rest stands for itself.
"""

import random
import string
import time
from collections import Counter
from collections.abc import Callable, Iterator

import phonenumbers
import pytest
from phonenumbers import PhoneNumberFormat, PhoneNumberType
from stdnum import ean, isbn
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
from stdnum.in_ import aadhaar
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

from llama2_core.data.documents import Document, Drop
from llama2_core.data.personal import passes_luhn, passes_mod_97
from tasks.steps.personal import PersonalData, scrub_document, scrub_personal_data
from tasks.steps.phones import REGIONS

Check = Callable[[str], bool]


def labelled(rng: random.Random, total: int) -> Iterator[tuple[str, str]]:
    """Yield (text, the same text with placeholders)."""
    texts = [
        (sentence.format(datum), sentence.format(f"<{kind}>")) for sentence, datum, kind in _planted(rng)
    ]
    yield from texts
    for number in range(total - len(texts)):
        text = _look_alike(number, rng)
        yield text, text


def _drawn(pattern: str, rng: random.Random, accepts: Check = lambda _: True) -> str:
    """Return a random text of the pattern that is accepted."""
    alphabets = {"#": string.digits, "&": string.ascii_uppercase, "~": string.digits + "abcdef"}
    while True:
        text = "".join(rng.choice(alphabets.get(character, character)) for character in pattern)
        if accepts(text):
            return text


def _compact(check: Check) -> Check:
    return lambda number: check("".join(filter(str.isalnum, number)))


def _planted(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yield (sentence, datum, kind)."""
    for address in ("jane.doe+list@mail.uni-bonn.de", "o_brien7@gmail.com", "J.R@x.co.uk"):
        yield from ((sentence, address, "email") for sentence in _SENTENCES["email"])
    for sentence in _SENTENCES["ip"]:
        yield sentence, _drawn("83.1##.4#.2#", rng), "ip"
        yield sentence, "2a00:1450:4001:82f::200e", "ip"
    for form in _IBANS * 2:
        yield rng.choice(_SENTENCES["iban"]), _drawn(form, rng, _compact(passes_mod_97)), "iban"
    for form in _CARDS * 4:
        yield rng.choice(_SENTENCES["card"]), _drawn(form, rng, _compact(passes_luhn)), "card"
    for form, check in _IDS * 2:
        yield rng.choice(_SENTENCES["id"]), _drawn(form, rng, check), "id"
    for sentence, form, check in _NAMED_IDS * 2:
        yield sentence, _drawn(form, rng, _compact(check)), "id"
    for sentence, number in _phones(rng):
        yield sentence, number, "phone"


def _phones(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield numbers as dialled from abroad, and in national form with or without a word before them."""
    for region in REGIONS:
        for kind in (PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE):
            number = phonenumbers.example_number_for_type(region, kind)
            form = rng.choice([PhoneNumberFormat.E164, PhoneNumberFormat.INTERNATIONAL])
            yield rng.choice(_SENTENCES["bare phone"]), phonenumbers.format_number(number, form)
            national = phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)
            yield rng.choice(_SENTENCES["phone"]), national
            if national.startswith("0") and not national.isdigit() and sum(map(str.isdigit, national)) > 8:
                yield rng.choice(_SENTENCES["bare phone"]), national


def _look_alike(number: int, rng: random.Random) -> str:
    match number % 10:
        case 0:
            return f"ISBN {isbn.format(_drawn('9783########0', rng, isbn.is_valid))} is out of print."
        case 1:
            return f"EAN {_drawn('40###########', rng, ean.is_valid)} was scanned."
        case 2:
            return f"{_drawn('4###############', rng, lambda digits: not passes_luhn(digits))} is no card."
        case 3:
            return f"{_drawn('DE####################', rng, lambda iban: not passes_mod_97(iban))} is no account."
        case _:
            return _drawn(_LOOK_ALIKES[number % len(_LOOK_ALIKES)], rng)


_SENTENCES = {
    "email": ("Write to {}.", "Schreiben Sie an {} oder rufen Sie an.", "Jane Doe <{}> wrote:", "mail={};"),
    "ip": ("Last login from {} at 10:45.", "Connection refused by {}", "[{}] GET /index.html"),
    "iban": ("Please pay to {} by Friday.", "IBAN: {}, BIC: COBADEFFXXX", "Überweisung auf {}."),
    "card": ("Charged to card {}, exp. 12/29.", "My Visa is {} and the code is 123.", "card={}"),
    "phone": (
        "Call {} before noon.",
        "Tel.: {}",
        "Phone {}, ask for Mr. Lee.",
        "Fax: {}.",
        "Móvil: {}",
        "电话：{}",
    ),
    "bare phone": ("{} is my number at home.", "You reach us at {}, day and night.", "Dr. Weber, {}"),
    "id": ("His number is {}.", "born in 1985, {}, lives in town", "ID {} was found in the leak."),
}
_IBANS = (
    *("DE####################", "GB## &&&& #### #### #### ##", "FR## #### #### #### #### #### ###"),
    *("NL## &&&& #### #### ##", "ES## #### #### #### #### ####", "IT##&######################"),
    *(
        "PL## #### #### #### #### #### ####",
        "BE## #### #### ####",
        "CH#######&&&&&&&&&&&&",
        "NO## #### #### ###",
    ),
)
_CARDS = (
    "4### #### #### ####",
    "51##############",
    "4###-####-####-####",
    "37## ###### #####",
    "6011 #### #### ####",
)
_IDS: tuple[tuple[str, Check], ...] = (
    ("###-##-####", ssn.is_valid),
    ("AB ## ## ## C", lambda _: True),
    ("CE######D", lambda _: True),
    ("1 85 05 78 006 ### ##", nir.is_valid),
    ("285077800######", nir.is_valid),
    ("########&", dni.is_valid),
    ("X#######&", nie.is_valid),
    ("RSSMRA85T10A562&", codicefiscale.is_valid),
    ("11010519491231###X", mod_11_2.is_valid),
    ("440306198506121###", mod_11_2.is_valid),
    ("###.###.###-##", cpf.is_valid),
    ("##.###.###-#", rut.is_valid),
    ("850612-####", personnummer.is_valid),
    ("120685-###A", hetu.is_valid),
    ("85.07.30-###.##", nn.is_valid),
    ("850612-1######", rrn.is_valid),
    ("BOXW310820HNERXN##", curp.is_valid),
    ("&&&P&####&", lambda _: True),
)
_NAMED_IDS: tuple[tuple[str, str, Check], ...] = (
    ("SSN {}", "#########", ssn.is_valid),
    ("Meine Steuer-ID lautet {}.", "## ### ### ###", idnr.is_valid),
    ("BSN: {}", "#########", bsn.is_valid),
    ("Aadhaar no. {}", "#### #### ####", aadhaar.is_valid),
    ("Social insurance number {}", "### ### ###", sin.is_valid),
    ("NHS number: {}", "### ### ####", nhs.is_valid),
    ("TFN {}", "### ### ###", tfn.is_valid),
    ("CPF {}", "###########", cpf.is_valid),
    ("CPR-nummer {}", "120685-####", cpr.is_valid),
    ("Personnummer: {}", "850612####", personnummer.is_valid),
    ("fødselsnummer {}", "120685 #####", fodselsnummer.is_valid),
    ("PESEL {}", "850612#####", pesel.is_valid),
    ("T.C. Kimlik No: {}", "###########", tckimlik.is_valid),
    ("South African ID number {}", "850612#######", za_idnr.is_valid),
)
_LOOK_ALIKES = (
    *("In 1984-1989 and 19#6-2003 it rained.", "The years 1994 1995 1996 1997, 20#1 and 2002."),
    *(
        "It cost $#,###.##, later # ###,## EUR, once Rs. ##,##,###.",
        "He paid ###### and #.###.###,## in all.",
    ),
    *("On 2015-07-13, 13.07.2015, 07/13/2015 and 20150713.", "At 2015-07-13T10:45:12Z, epoch 14367#####."),
    *("Version ##.#.#####.# follows ##.#.## and 1.2.3.4.", "Linux 5.##.#-###-generic, build #####.####"),
    *("At 48.#######, 2.####### or 48°51'##\"N ##.####° W.", "Grid ##U &B 4#### 9####, scale 1:## ###."),
    *("Part No. 212-555-####, drawing ####-####-##.", "Model 4711-0815, SKU #####-#####, item ##-#####."),
    *("md5 ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~, commit ~~~~~~~.", "UUID ~~~~~~~~-~~~~-4~~~-8~~~-~~~~~~~~~~~~"),
    *("x = ######### + # * ##### / #.########", "2^32 = 4294967296, 10! = 3628800, ##! > 10^##"),
    *("A town of ## ###, a country of ## ### ###.", "# ### ### ### stars, 1 000 000 000 of them dim."),
    *("Scores 110-98, 3-2 and ##-##-##; sets 6-4 7-6.", "Psalm 119:##-###, 1 Cor 13:4-8, p. ###-####"),
    *("US Patent #,###,### B2, case 98-cv-#####.", "DOI 10.####/###.####.#####, arXiv 2307.#####v2"),
    *("CAS #####-##-#, EC ###-###-#, UN ####.", "MAC 00:1B:44:11:~~:~~ at 12:30:##, ratio #:#"),
    *("Beverly Hills 90210-####, P.O. Box #####.", "ISSN ####-####, OCLC #########, LCCN ##-######."),
    *("Flight &A ####, train ICE ###, bus ##&.", "1920x1080 at 60 Hz, ####x####, f/#.#, ISO #####"),
    *("Order ############ of batch #### #### ####.", "Invoice ########-##, lot &#########."),
    *("pi = 3.14159265358979323846, e = 2.71828182#459", "Temperatures of -##.####### to +##.###### K."),
    *(
        "RFC ####, section #.12.1.#, enzyme EC 1.14.##.1, 192.168.#.##.",
        "127.0.0.1, 10.#.1#.# and 2001:db8::~~~~ are examples.",
    ),
    *("From +1#00 to +1500 metres, 00 12 34 hours.", "#### #### steps; ## ## ## ## beats."),
    *("GCTAACGTA ### bp, 5'-ACGT-3', pH #.##.", "Table 3: 12 34 56 78 90 12 34; 0 1 0 1 1 0"),
)


@pytest.mark.parametrize("seed", range(3))
def test_every_planted_datum_is_found_and_nothing_else(seed):
    texts = list(labelled(random.Random(seed), 500))
    assert len(texts) == 500 and sum(text != expected for text, expected in texts) > 200
    assert [scrub_personal_data(text)[0] for text, _ in texts] == [expected for _, expected in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Call +44 20 7946 0958 today", "Call <phone> today"),
        ("Call +1 (780) 800-7092", "Call <phone>"),
        ("(780) 800-7092 or 780-800-7092 or 780.800.7092.", "<phone> or <phone> or <phone>."),
        ("Ring 020 7946 0958", "Ring <phone>"),
        ("+4915112345678", "<phone>"),
        ("tel. 98765 43210", "tel. <phone>"),
        ("Order 12, call 98765 43210; 您电话98765 43210", "Order 12, call <phone>; 您电话<phone>"),
        ("BSN 111222333", "BSN <id>"),
        ("RSSMRA85T10A562S", "<id>"),
        ("jane@mail.org, 78-05-1120 and 780-800-7092", "<email>, 78-05-1120 and <phone>"),
    ],
)
def test_personal_data_goes(text, expected):
    scrubbed, counts = scrub_personal_data(text)
    assert scrubbed == expected
    assert counts.total() == expected.count("<")
    assert scrub_personal_data(scrubbed) == (scrubbed, Counter())


@pytest.mark.parametrize(
    "text",
    [
        "98765 43210 and 111222333 are bare digits; PN 780-800-7092, no. 020 7946 0958",
        "from +1300 to +1500 and +0.123 4567",
        "536-90-4390-1, x536-90-4399, 000-12-3456 (never given)",
        "Sin 046 454 286 pesetas, hotel 98765 43210, order no. 020 7946 0958",
        "the years 1994 1995 1996 1997 and 2001 2002 2003 2004",
    ],
)
def test_look_alikes_stay(text):
    assert scrub_personal_data(text) == (text, Counter())


def test_kinds_and_regions_can_be_chosen():
    text = "a@b.de, call 020 7946 0958, DNI 12345678Z"
    assert scrub_personal_data(text, PersonalData(kinds=("email",)))[0] == text.replace("a@b.de", "<email>")
    spain = PersonalData(phone_regions=("ES",))
    assert scrub_personal_data(text, spain)[0] == "<email>, call 020 7946 0958, DNI <id>"


def test_what_was_scrubbed_is_noted():
    document = Document("a", "b", "Write to a@b.de or c@d.fr, or call 780-800-7092.", changes=("encoding",))
    scrubbed = scrub_document(document, PersonalData())
    assert isinstance(scrubbed, Document) and scrubbed.changes == ("encoding", "email", "email", "phone")
    assert scrub_document(Document("a", "b", "Nothing."), PersonalData()) == Document("a", "b", "Nothing.")


def test_a_page_full_of_personal_data_can_be_dropped():
    document = Document("a", "b", "Ann a@b.de and Bob c@d.fr live here.")  # 2 of 7 words
    assert scrub_document(document, PersonalData(most_per_thousand_words=250)) == Drop(
        "much personal data", "2 email: 286 in 1000 words"
    )
    assert isinstance(scrub_document(document, PersonalData(most_per_thousand_words=300)), Document)


def test_a_page_without_personal_data_costs_little():
    """Far under 0.3 ms a page of 3 KB; the bound leaves room for a busy machine."""
    numbers = "In 1984 the town had 12 500 inhabitants; by 2001-2003 it had 13,870 (see p. 120).\n"
    page = (numbers + "The rest of what there is to say of it needs no number at all, as is usual.\n" * 3) * 9
    fastest = min(_seconds(page) for _ in range(20))
    assert fastest < 0.001


def _seconds(page: str) -> float:
    start = time.process_time()
    scrub_personal_data(page)
    return time.process_time() - start
