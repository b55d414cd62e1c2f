import pytest

from llama2_core.data.personal import ADDRESSES, NUMBERS, passes_luhn, passes_mod_97, scrub


def test_luhn_by_hand():
    # 79927398713: from the right 3 + (1*2) + 7 + (8*2-9) + 9 + (3*2) + 7 + (2*2) + 9 + (9*2-9) + 7 = 70.
    assert passes_luhn("79927398713")
    assert not any(passes_luhn(f"7992739871{digit}") for digit in "012456789")


def test_mod_97():
    assert passes_mod_97("GB82WEST12345698765432")  # the example of ISO 13616
    assert not passes_mod_97("GB82WEST12345698765423")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to Jane.Doe+x@mail.uni-bonn.de.", "Write to <email>."),
        ("<greg@python.net>", "<<email>>"),
        ("Card 4111 1111 1111 1111, exp. 12/26", "Card <card>, exp. 12/26"),
        ("4111-1111-1111-1111", "<card>"),
        ("amex 378282246310005.", "amex <card>."),
        ("Pay to GB82 WEST 1234 5698 7654 32 NOW", "Pay to <iban> NOW"),
        ("DE89370400440532013000", "<iban>"),
        ("from 203.0.114.77:", "from <ip>:"),
        ("at 2a00:1450:4001:82f::200e.", "at <ip>."),
    ],
)
def test_personal_data_goes(text, expected):
    scrubbed, counts = scrub(text, ADDRESSES, NUMBERS)
    assert scrubbed == expected
    assert counts.total() == expected.count("<") - expected.count("<<")
    assert scrub(scrubbed, ADDRESSES, NUMBERS) == (scrubbed, {})


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com, a@b.example.org, root@localhost and @decorator",
        "127.0.0.1, 10.1.22.3, 192.168.10.1, 172.16.0.10, 0.0.0.0, 255.255.255.255 and 192.0.2.10",
        "Python 3.11.7, kernel 5.10.0, section 3.3.2.1, build 10.0.19041.1 and version 1.2.3.4",
        "::1, fe80::1ff:fe23:4567:890a, 2001:db8::8a2e:370:7334, a[::2], x[2000::5] and 12:30:45",
        "4111 1111 1111 1112 fails the checksum; 1234567812345670 has no issuer",
        "3.14159265358979323846 and 4503599627370496 and -4111111111111111",
        "ISBN 978-0-306-40615-7, ISBN 0-8044-2957-X, ISSN 0028-0836, doi 10.1000/182",
        "1939-1945, 1998-2000-2004, 2015-07-13, 13.07.2015, 1 000 000 000 and 1 020 340 560",
        "GB82 WEST 1234 5698 7654 33 has wrong check digits",
        "the years 1994 1995 1996 1997 and 2001 2002 2003 2004",
    ],
)
def test_look_alikes_stay(text):
    assert scrub(text, ADDRESSES, NUMBERS) == (text, {})


def test_counts_by_kind():
    text = "a@b.de c@d.fr from 203.0.114.77"
    assert scrub(text, ADDRESSES, NUMBERS)[1] == {"email": 2, "ip": 1}


def test_of_two_that_overlap_the_kind_named_first_is_meant():
    account = "DE95 4111 1111 1111 1111 00"
    assert scrub("4111 1111 1111 1111", ADDRESSES, NUMBERS)[0] == "<card>"
    assert scrub(account, ADDRESSES, NUMBERS)[0] == "<iban>"
    assert scrub(account, ADDRESSES, NUMBERS[::-1])[0] == account.replace("4111 1111 1111 1111", "<card>")
