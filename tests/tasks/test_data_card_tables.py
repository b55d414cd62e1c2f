"""Tables of a data card from rows made by hand."""

from tasks.data_card_tables import identity_table, language_table, pronoun_table


def test_languages_are_listed_from_a_share_on() -> None:
    rows = [
        {"language": name, "documents": 1, "share": share} for name, share in (("en", 0.99), ("xx", 0.00004))
    ]
    assert language_table(rows, 0.00005) == [
        {"language": "en", "documents": "1", "%": "99.00", "Llama 2": "89.70"},
    ]
    assert language_table(rows, 0)[1] == {"language": "xx", "documents": "1", "%": "0.00", "Llama 2": "–"}


def test_tables_name_the_whole_of_a_part() -> None:
    rows = [
        {"group": group, "documents": 0, "share": None} for group in ("gendered", "he", "any person", "2nd")
    ]
    table = pronoun_table(rows)
    assert [row["of documents"] for row in table] == ["in English", "gendered", "in English", "any person"]
    assert [row["%"] for row in table] == ["–"] * 4
    terms = [
        {"axis": "religion", "term": f"t{n}", "documents": 9 - n, "share": 0.1, "axis_share": 0.2}
        for n in range(7)
    ]
    [axis] = identity_table(terms)
    assert axis["its first terms, in % of its documents"] == "t0 10.0, t1 10.0, t2 10.0, t3 10.0, t4 10.0"
