"""What `import busseg` offers."""

import ast
import inspect
from pathlib import Path

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


def test_type_checkers_see_the_same_names():
    stub = ast.parse(Path(busseg.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    (listed,) = (ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    assert listed == busseg.__all__
