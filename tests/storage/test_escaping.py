import pytest

from busseg.storage.escaping import from_cell, match_names, printable, to_cell


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scan (1) ü 病例.png", "scan (1) ü 病例.png"),
        ("a\u3000b\u00a0c", "a\u3000b\u00a0c"),  # the spaces of Chinese and of French
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("gnp.\u202exe", "gnp.\\u202exe"),  # which turns what follows around
        (b"\xc8\xe9.png".decode("utf-8", "surrogateescape"), "\\udcc8\\udce9.png"),
    ],
)
def test_what_does_not_print_is_escaped_and_all_else_stays(text, expected):
    assert printable(text) == expected


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a.png", "a.png"),
        ("=1+2.png", "'=1+2.png"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("'=x", "''=x"),
        ("'tis", "'tis"),
        ("-0.5", "-0.5"),  # a number is no formula
        ("+1e-3", "+1e-3"),
        ("'-0.5", "''-0.5"),
        (b"\xff=.png".decode("utf-8", "surrogateescape"), "\\udcff=.png"),
    ],
)
def test_cell_is_no_formula_and_utf_8_and_reads_back_the_same(text, cell):
    assert to_cell(text) == cell
    assert from_cell(cell) == text


def test_numbers_stay_numbers():
    assert to_cell(-0.5) == -0.5


@pytest.mark.parametrize("name", ["caf\xe9.png", "cafe\u0301.png"])
def test_name_is_found_however_its_accents_are_composed(name):
    spelt = match_names(["a.png", name])
    assert [spelt("caf\xe9.png"), spelt("cafe\u0301.png"), spelt("cafe.png")] == [name, name, "cafe.png"]


def test_of_two_names_that_differ_by_it_alone_each_is_found():
    both = ["caf\xe9.png", "cafe\u0301.png"]
    assert [match_names(both)(name) for name in both] == both
