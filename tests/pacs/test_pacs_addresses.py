import pytest

from busseg.pacs.addresses import Node, check_title, is_loopback, is_uid, parse_node


@pytest.mark.parametrize(("text", "expected"), [
    ("1.2.840.10008", True),
    ("1." + "2" * 62, True),  # 64 letters
    ("1." + "2" * 63, False),
    ("", False),
    ("..", False),
    ("1..2", False),
    (".1", False),
    ("1.2/3", False),
    ("1.2\n", False),
    ("1.2.٣", False),  # a digit, but not of ASCII
])  # fmt: skip
def test_uid_is_digits_and_dots_and_safe_as_a_name(text, expected):
    assert is_uid(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("PACS@192.0.2.1:104", Node("PACS", "192.0.2.1", 104)),
    ("MY PACS@pacs.example:11112", Node("MY PACS", "pacs.example", 11112)),
    ("PACS@[::1]:104", Node("PACS", "::1", 104)),
])  # fmt: skip
def test_node_is_title_host_and_port(text, expected):
    assert parse_node(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@host:65536",
                                  "SEVENTEENLETTERSX@host:104", "PACS@::1:104"])  # fmt: skip
def test_other_nodes_are_refused(text):
    with pytest.raises(ValueError, match=r"^Expected a node as AE@HOST:PORT, such as PACS@192\.0\.2\.1:104, found '"):
        parse_node(text)


@pytest.mark.parametrize("text", ["", " PACS", "PACS ", "A\\B", "SEVENTEENLETTERSX", "A\nB"])
def test_other_titles_are_refused(text):
    with pytest.raises(ValueError, match=r"^Expected an AE title of 1 to 16 letters, found '"):
        check_title(text)


def test_loopback_is_this_machine_alone():
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "0.0.0.0", "192.0.2.1")] == [True, True, False, False]
