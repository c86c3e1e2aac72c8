"""What `import busseg` offers."""

import inspect

import pytest

import busseg


@pytest.mark.parametrize("name", busseg.__all__)
def test_every_public_name_is_a_documented_function_or_class(name):
    found = getattr(busseg, name)
    assert inspect.isfunction(found) or inspect.isclass(found)
    assert found.__module__.startswith("busseg.")
    assert inspect.getdoc(found)


def test_public_names_are_listed_by_dir():
    assert set(busseg.__all__) <= set(dir(busseg))


def test_any_other_name_is_refused_as_python_does():
    with pytest.raises(AttributeError, match="module 'busseg' has no attribute 'segment'"):
        _ = busseg.segment
