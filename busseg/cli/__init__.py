"""The verbs: parse, call one function, print. Heavy imports stand inside the functions, so `--help` answers at once."""

# The order of `busseg --help`.
from busseg.cli import training, data, evaluation, inference, pacs  # noqa: F401, I001
from busseg.cli.program import app, main

__all__ = ["app", "main"]
