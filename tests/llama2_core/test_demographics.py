from llama2_core.data.demographics import (
    IDENTITIES,
    PAPER_IDENTITIES,
    PAPER_PRONOUNS,
    PRONOUNS,
    measure_demographics,
)
from llama2_core.data.documents import Document


def measured(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    document = measure_demographics(Document("a", "b", text))
    return document.pronouns, document.identities


def test_pronoun_groups_by_hand():
    assert measured("Her book is HERS.")[0] == ("she", "3rd")
    assert measured("We saw it ourselves.")[0] == ("1st", "3rd")
    assert measured("You're late, themself said.")[0] == ("unspecified", "2nd", "3rd")
    assert measured("The cat sat. Others, theory, theirselves, ishe.")[0] == ()


def test_identity_terms_by_hand():
    assert measured("A Jewish, Korean-American mother and a non-binary teen.")[1] == (
        "gender and sex/non binary",
        "nationality/american",
        "nationality/korean",
        "religion/jewish",
    )
    assert measured("An African American church; the African plain.")[1] == (
        "nationality/american",
        "race and ethnicity/african",
        "race and ethnicity/african american",
    )
    assert measured("American, African: two words, but apart. Jehovah's Witness.")[1] == (
        "nationality/american",
        "race and ethnicity/african",
        "religion/jehovah s witness",
    )
    assert measured("A straight white line, a black cat, a females' ward.")[1] == ()


def test_terms_stand_on_one_axis_and_without_the_ambiguous_ones():
    terms = [term for words in IDENTITIES.values() for term in words.split()]
    assert len(terms) == len(set(terms)) == 76
    assert not {"straight", "white", "black"} & set(terms)


def test_the_papers_top_terms_are_known():
    for axis, (_, terms) in PAPER_IDENTITIES.items():
        assert set(terms) <= set(IDENTITIES[axis].split())
    assert set(PRONOUNS) < set(PAPER_PRONOUNS)
