"""Every rule has a text just inside its limit and one just outside. Words have four letters, unless said."""

from itertools import islice, product

import pytest

from llama2_core.data.c4 import C4Rules, sentence_count, strip_lines
from llama2_core.data.documents import Document, Drop, normalise, words_of
from llama2_core.data.fineweb import FineWebRules
from llama2_core.data.gopher import GopherQuality, GopherRepetition
from llama2_core.data.quality import QualityRules, check_quality, quality_verdict
from llama2_core.data.repetition import (
    duplicate_shares,
    recurring_ngrams,
    repeated_characters,
    top_characters,
)

DEFAULT = QualityRules()
LENIENT = QualityRules(
    repetition=GopherRepetition(
        max_duplicate_lines=1,
        max_duplicate_line_characters=1,
        max_duplicate_paragraphs=1,
        max_duplicate_paragraph_characters=1,
        max_top_ngram_characters=(1,) * 3,
        max_duplicate_ngram_characters=(1,) * 6,
    )
)


def words(count: int) -> list[str]:
    """Return `count` different words of four letters, two of them stop words."""
    syllables = ("".join(letters) for letters in product("bdfglmnprst", "aeiou", "bdfgl", "aeiou"))
    return ["that", "with", *islice(syllables, count - 2)]


def lines_of(all_words: list[str], length: int) -> list[str]:
    return [" ".join(all_words[start : start + length]) for start in range(0, len(all_words), length)]


def prose(count: int) -> str:
    return " ".join(words(count))


def reason(text: str, rules: QualityRules = DEFAULT) -> str | None:
    verdict = quality_verdict(text, rules)
    return verdict.reason if verdict else None


def with_limits(**limits: float) -> QualityRules:
    return LENIENT.model_copy(update={"repetition": LENIENT.repetition.model_copy(update=limits)})


def test_word_count():
    assert reason(prose(50)) is None
    assert quality_verdict(prose(49), DEFAULT) == Drop("gopher: too few words", "49 < 50")
    assert reason("", QualityRules(gopher=GopherQuality(min_words=0))) == "gopher: too few words"
    short = QualityRules(gopher=GopherQuality(max_words=60))
    assert reason(prose(60), short) is None
    assert reason(prose(61), short) == "gopher: too many words"


def test_mean_word_length():
    three = ["the", "and", *["".join(c) for c in islice(product("bdfg", "aeiou", "lmnp"), 48)]]
    assert reason(" ".join(three)) is None  # mean 3
    assert quality_verdict(" ".join([*three[:-1], "ox"]), DEFAULT) == Drop("gopher: short words", "2.98 < 3")
    ten = ["the", "and", "a" * 17, "b" * 17, *[word * 2 + "xy" for word in words(48)[2:]]]
    assert reason(" ".join(ten)) is None  # (3 + 3 + 17 + 17 + 46 * 10) / 50 = 10
    assert reason(" ".join([*ten, "c" * 11])) == "gopher: long words"


@pytest.mark.parametrize("symbol", ["#", "...", "…"])
def test_symbols_per_word(symbol):
    assert reason(prose(50) + symbol * 5 + "x") is None  # 0.1
    assert reason(prose(50) + symbol * 6 + "x") == "gopher: symbols"


@pytest.mark.parametrize("bullet", ["- ", "• ", "* "])
def test_bullet_lines(bullet):
    lines = lines_of(words(100), 10)
    assert reason("\n".join([lines[0], *(bullet + line for line in lines[1:])])) is None  # 9 of 10
    assert reason("\n".join(bullet + line for line in lines)) == "gopher: bullet lines"


def test_ellipsis_lines():
    lines = lines_of(words(100), 10)
    assert reason("\n".join([*lines[3:], *(line + "..." for line in lines[:3])])) is None  # 3 of 10
    assert reason("\n".join([*lines[4:], *(line + "…" for line in lines[:4])])) == "gopher: ellipsis lines"


def test_words_without_letters():
    numbers = [str(number) for number in range(1000, 1011)]
    assert reason(" ".join(words(40) + numbers[:10])) is None  # 40 of 50
    assert reason(" ".join(words(39) + numbers[:11])) == "gopher: words without letters"


def test_stop_words():
    assert reason(" ".join([*words(52)[2:], "That,", "WITH"])) is None
    assert reason(" ".join([*words(52)[2:], "that", "that"])) == "gopher: too few stop words"


def test_lorem_ipsum_and_curly_braces():
    assert reason(prose(50) + " Lorem Ipsum") == "c4: lorem ipsum"
    assert reason(prose(50) + " {x}") is None
    assert reason(prose(50) + " {x}", QualityRules(c4=C4Rules(drop_curly_braces=True))) == "c4: curly brace"


def test_line_rules():
    page = "Please enable JavaScript.\nJavaScript was written in ten days.\n\nMenu\n'That is all.'"
    assert strip_lines(page, C4Rules()) == page.removeprefix("Please enable JavaScript.\n")
    sentences = "JavaScript was written in ten days.\n\n'That is all.'"
    assert strip_lines(page, C4Rules(strip_fragments=True)) == sentences
    assert strip_lines(page, C4Rules(strip_javascript_warnings=False)) == page
    assert strip_lines(page, C4Rules(strip_javascript=True)) == "\nMenu\n'That is all.'"


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("We use cookies.", C4Rules(strip_policies=True)),
        ("Read our Privacy Policy.", C4Rules(strip_policies=True)),
        ("To be continued...", C4Rules(strip_fragments=True)),
        ("Two words.", C4Rules(min_line_words=3)),
        ("A word of 1001 letters: " + "a" * 1001 + ".", C4Rules(max_word_characters=1000)),
    ],
)
def test_lines_that_go(line, rules):
    stays = f"Three words stay {'a' * 999}."
    assert strip_lines(f"{line}\n{stays}", rules) == stays


def test_citations_go_from_lines():
    cited = "It grew.[12] It fell.[edit] It rose.[citation needed] It is [13a]."
    assert strip_lines(cited, C4Rules(strip_citations=True)) == "It grew. It fell. It rose. It is [13a]."


def test_sentences_by_hand():
    # "3.5" and "U.S.A.," break none; a line's end does; "!?" and a closing quotation mark belong to the sentence.
    assert sentence_count(["He paid 3.5 in the U.S.A., 'Is it?!' she asked. Yes.", "A heading", "Done."]) == 5
    assert sentence_count(["这是一句。这是两句。"]) == 2
    rules = QualityRules(c4=C4Rules(min_sentences=3))
    assert reason(f"{prose(50)}. One. Two.", rules) is None
    assert quality_verdict(f"{prose(50)}. One.", rules) == Drop("c4: too few sentences", "2 < 3")


def test_check_quality_strips_then_judges():
    kept = Document("a", "b", f"Please enable JavaScript.\n{prose(50)}")
    assert check_quality(kept, DEFAULT) == Document("a", "b", prose(50))
    whole = Document("a", "b", prose(50))
    assert check_quality(whole, DEFAULT) is whole
    assert check_quality(Document("a", "b", "Short."), DEFAULT) == Drop("gopher: too few words", "1 < 50")


def fineweb(text: str, **limits: float) -> str | None:
    off = {"min_punctuated_lines": 0, "max_short_lines": 1, "max_duplicate_line_characters": 1}
    rules = FineWebRules(**(off | {"max_newlines_per_word": 100} | limits))
    return reason(text, LENIENT.model_copy(update={"fineweb": rules}))


def test_punctuated_lines():
    lines = lines_of(words(100), 4)
    ended = [line + "." for line in lines[:3]] + lines[3:]
    assert fineweb("\n".join(ended), min_punctuated_lines=0.12) is None  # 3 of 25
    assert fineweb("\n".join(lines[:1] + ended[1:]), min_punctuated_lines=0.12) == (
        "fineweb: lines without punctuation"
    )
    assert fineweb("\n".join(line + "。" for line in lines), min_punctuated_lines=1) is None


def test_short_lines():
    long = lines_of(words(70), 7)  # of 34 characters
    short = [line[:30].strip() for line in long]
    assert fineweb("\n".join(short[:6] + long[6:]), max_short_lines=0.67) is None  # 6 of 10
    assert fineweb("\n".join(short[:7] + long[7:]), max_short_lines=0.67) == "fineweb: short lines"
    assert fineweb("\n".join(short), max_short_lines=0.67, short_line_characters=28) is None


def test_repeated_line_characters_of_fineweb():
    lines = [*lines_of(words(200), 2), "yes"]  # 100 lines of 9 characters, one of 3: 3 of 906 repeat
    assert fineweb("\n".join([*lines, "yes"]), max_duplicate_line_characters=0.01) is None
    assert fineweb("\n".join([*lines, *["yes"] * 4]), max_duplicate_line_characters=0.01) == (
        "fineweb: repeated line characters"
    )


def test_newlines():
    lines = lines_of(words(100), 10)
    text = "\n".join(lines)  # 9 line ends, 100 words
    assert fineweb(text, max_newlines_per_word=0.09) is None
    assert fineweb(text, max_newlines_per_word=0.08) == "fineweb: newlines"


def test_duplicate_shares_by_hand():
    # "ab" occurs three times, so two repeats: 2 of 5 pieces, 4 of 12 characters.
    assert duplicate_shares(["ab", "cde", "ab", "fgh", "ab"]) == (2 / 5, 4 / 12)


def test_repeated_lines():
    rest = lines_of(words(70), 10)
    assert reason("\n".join(["Yes"] * 4 + rest[:6])) is None  # 3 of 10 lines repeat
    assert reason("\n".join(["Yes"] * 5 + rest[:6])) == "gopher: repeated lines"  # 4 of 11


def test_repeated_line_characters():
    lines = lines_of(words(50), 10)
    limits = with_limits(max_duplicate_line_characters=0.2)
    assert reason("\n".join([*lines[:4], lines[0]]), limits) is None  # 1 of 5 equal lines
    assert reason("\n".join([*lines[:3], lines[0]]), limits) == "gopher: too few words"
    assert reason("\n".join([*lines, *lines[:2]]), limits) == "gopher: repeated line characters"  # 2 of 7


def test_repeated_paragraphs():
    paragraphs = lines_of(words(70), 10)
    limits = with_limits(max_duplicate_paragraphs=0.3)
    assert reason("\n\n".join([*paragraphs, *paragraphs[:3]]), limits) is None  # 3 of 10
    assert reason("\n\n".join([*paragraphs[:6], *paragraphs[:3]]), limits) == "gopher: repeated paragraphs"


def test_repeated_paragraph_characters():
    paragraphs = lines_of(words(70), 10)
    limits = with_limits(max_duplicate_paragraph_characters=0.2)
    assert reason("\n\n".join([*paragraphs[:4], paragraphs[0]]), limits) is None  # 1 of 5
    assert reason("\n\n".join([*paragraphs[:6], *paragraphs[:2]]), limits) == (
        "gopher: repeated paragraph characters"
    )


def test_ngrams_by_hand():
    # "a b" occurs twice, 4 characters; its second occurrence covers 2. Nothing longer repeats.
    [pairs] = recurring_ngrams(list("abcab"))
    assert pairs == {0: ("a", "b"), 3: ("a", "b")}
    assert top_characters(pairs) == 4 and repeated_characters(pairs) == 2
    # x x x: "x x" twice, overlapping, 4 characters of 3; the second covers words 2 and 3.
    [pairs] = recurring_ngrams(list("xxx"))
    assert top_characters(pairs) == 4 and repeated_characters(pairs) == 2
    # Of equals the longest counts.
    [pairs] = recurring_ngrams(["a", "b", "-", "cc", "dd", "=", "a", "b", "+", "cc", "dd"])
    assert top_characters(pairs) == 8 and repeated_characters(pairs) == 6
    assert [len(ngrams) for ngrams in recurring_ngrams(list("abcdabcd"))] == [6, 4, 2]
    assert list(recurring_ngrams([])) == list(recurring_ngrams(["a"])) == []


@pytest.mark.parametrize(("n", "inside", "outside"), [(2, 5, 6), (3, 3, 4), (4, 2, 3)])
def test_top_ngram(n, inside, outside):
    """Among 50 words an n-gram c times has a share of n c / 50: limits 0.20, 0.18, 0.16."""

    def text(count: int) -> str:
        pool = words(50 + n)
        ngram, others = pool[-n:], pool[: 50 - n * count]
        parts = [word for i in range(count) for word in (*ngram, others[i])] + others[count:]
        return " ".join(parts)

    assert reason(text(inside)) is None
    drop = quality_verdict(text(outside), DEFAULT)
    assert drop is not None and drop.reason == "gopher: top n-gram" and drop.detail.startswith(f"{n}-gram ")


@pytest.mark.parametrize("n", [5, 6, 7, 8, 9, 10])
def test_repeated_ngrams(n):
    """Of 1000 words, k runs of n from the first half come again: a share of k n / 1000."""
    limit = DEFAULT.repetition.max_duplicate_ngram_characters[n - 5]

    def text(runs: int) -> str:
        pool = words(1000 - runs * n + 100)
        again = [[*pool[20 * i : 20 * i + n], pool[-1 - i]] for i in range(runs)]
        return " ".join(pool[: 1000 - runs * (n + 1)] + [word for run in again for word in run])

    runs = int(limit * 1000 / n)
    limits = [1.0] * 6
    limits[n - 5] = limit
    rules = with_limits(max_duplicate_ngram_characters=tuple(limits))
    assert reason(text(runs), rules) is None
    drop = quality_verdict(text(runs + 1), rules)
    assert drop is not None and drop.reason == "gopher: repeated n-grams"
    assert drop.detail.startswith(f"{n}-grams ")


def test_every_threshold_names_its_source():
    for record in (GopherQuality, GopherRepetition, C4Rules, FineWebRules):
        for name, field in record.model_fields.items():
            assert any(source in (field.description or "") for source in ("Gopher", "C4", "FineWeb")), name


def test_normalise():
    assert normalise("\ufeffe\u0301te\u0301\r\nb\x00\tc  \r\n\n\n\u200bd\ud800") == "été\nb\tc\n\nd\ufffd"
    assert normalise(normalise("a \u2028b")) == "a\nb"
    assert normalise("e\u200b\u0301") == "é"


def test_chinese_characters_are_words():
    assert words_of("我爱 Llama 2，カナ ok") == ["我", "爱", "Llama", "2，", "カ", "ナ", "ok"]
