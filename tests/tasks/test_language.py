"""Languages named on the paragraphs of the Universal Declaration of Human Rights.

Of the 27 languages of Llama 2's Table 10, 99.2% of 1,328 paragraphs from 100 characters on are named rightly where the
written standards of one spoken language count as one: Bosnian, Croatian and Serbian (Serbian in Latin script is called
sr, sh or hr), Norwegian Bokmål and Nynorsk, Indonesian and Malay. Apart they are 95.9%. From 50 characters on it is
98.2%. What still fails is Nynorsk taken for Danish (5), Bokmål for Danish, Slovenian for Croatian and Serbian, Serbian
for Macedonian and Russian (1 each).

Of the 123 languages that both know it is 77.7%: the package carries the model compressed to 1 MB, which hardly ever
names those with few articles in Wikipedia but a larger neighbour or the Latin script: Bhojpuri and Maithili (hi), Bikol
(tl), Corsican, Emilian, Sardinian and Venetian (it), Guarani (es), Minangkabau (id), Ossetian (ru), Pampanga and Scots
(en), Sorani (ku), Tuvan (ky), Veps (fi), Walloon (fr), Yoruba (ga), Azerbaijani (tt) and Uzbek (tg) in Cyrillic script;
less than half of the time Amharic, Asturian, Haitian, Ido, Occitan, Quechua, Romansh, Sanskrit and Somali.
"""

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from tasks.language import identify

DECLARATIONS = Path(__file__).parents[3] / "shared" / "data" / "udhr" / "udhr2.zip"
LEAST_CHARACTERS = 100
TABLE_10 = """
bul bg, cat ca, ces cs, cmn_hans zh, cmn_hant zh, dan da, deu de, deu_1901 de, eng en, fin fi, fra fr, hrv hr, hun hu,
ind id, ita it, jpn ja, kor ko, nld nl, nno nn, nob no, pol pl, por_BR pt, por_PT pt, ron ro, ron_1953 ro, ron_1993 ro,
rus ru, slv sl, spa es, srp_cyrl sr, srp_latn sr, swe sv, ukr uk, vie vi
"""
OTHERS = """
afr af, als sq, amh am, arb ar, ast ast, azj_cyrl az, azj_latn az, bcl bcl, bel be, ben bn, bho bh, bod bo, bos_cyrl
bs, bos_latn bs, bre br, ceb ceb, ckb ckb, cos co, cym cy, div dv, ell_monotonic el, ell_polytonic el, eml eml, epo
eo, est et, eus eu, fri fy, gla gd, gle ga, glg gl, gug gn, guj gu, hat_kreyol ht, heb he, hin hi, hsb hsb, hye hy,
ido io, ilo ilo, ina ia, isl is, jav jv, kan kn, kat ka, kaz kk, khk mn, khm km, kir ky, lao lo, lat la, lav lv, lit
lt, lnc oc, ltz lb, mai mai, mal ml, mar mr, min min, mkd mk, mlt mt, mly_latn ms, mya my, nds nds, nep ne, oss os,
pam pam, pan pa, pbu ps, pes_1 fa, plt mg, pnb pnb, prv oc, quy qu, quz qu, roh rm, sah sah, san sa, sco sco, slk sk,
som so, src sc, sun su, swh sw, tam ta, tat tt, tgk tg, tgl tl, tha th, tuk_latn tk, tur tr, tyv tyv, uig_arab ug, urd
ur, uzn_cyrl uz, uzn_latn uz, vec vec, vep vep, war war, wln wa, ydd yi, yor yo
"""
ONE_LANGUAGE = {"bs": "sr", "hr": "sr", "sh": "sr", "nn": "no", "ms": "id"}

pytestmark = pytest.mark.skipif(not DECLARATIONS.exists(), reason="no ../shared/data/udhr")


def named(files: str) -> tuple[float, Counter[str]]:
    """Return the share of paragraphs whose language is named rightly, and a count of each error."""
    errors: Counter[str] = Counter()
    total = 0
    with zipfile.ZipFile(DECLARATIONS) as archive:
        for file, language in (entry.split() for entry in files.split(",")):
            lines = archive.read(f"udhr2/{file}.txt").decode("utf-8-sig").splitlines()
            paragraphs = [line.strip() for line in lines if len(line.strip()) >= LEAST_CHARACTERS]
            total += len(paragraphs)
            answers = [identify(paragraph)[0] for paragraph in paragraphs]
            errors.update(f"{file} as {answer}" for answer in answers if not same(answer, language))
    return 1 - errors.total() / total, errors


def same(a: str, b: str) -> bool:
    return ONE_LANGUAGE.get(a, a) == ONE_LANGUAGE.get(b, b)


def test_languages_of_table_10() -> None:
    share, errors = named(TABLE_10)
    assert share >= 0.98, errors.most_common()


def test_every_language_that_the_model_knows() -> None:
    share, errors = named(f"{TABLE_10}, {OTHERS}")
    assert share >= 0.75, errors.most_common()
