"""Shared input and output of the measuring scripts: options, aligned tables, JSON, facts of the machine."""

import argparse
import importlib.metadata
import inspect
import json
import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = ("busseg", "numpy", "keras", "tensorflow", "albumentations", "opencv-python-headless", "onnxruntime")
PACKAGES += ("openvino", "ai-edge-litert", "torch", "segmentation-models-pytorch", "timm")


def parse_arguments(doc, quick, *options):
    """The command line of a script.

    Args:
        doc: Its docstring.
        quick: Dict of the settings that `--quick` stands for.
        options: `(name, dict for add_argument)`, each a setting of `measure` of the same name.

    Returns:
        `(settings, path)`: the settings given on the command line, and the path of the JSON file, or None.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, details in options:
        parser.add_argument(name, **{"default": argparse.SUPPRESS if name.startswith("-") else None, **details})
    parser.add_argument("--quick", action="store_true", help="small settings, to see that it works")
    parser.add_argument("--json", type=Path, metavar="PATH", help="JSON file to write")
    given = vars(parser.parse_args())
    path, small = given.pop("json"), given.pop("quick")
    return {**(quick if small else {}), **given}, path


def measure_and_report(name, measure, settings, path=None):
    """Run the `measure` of a script; report the rows and all settings, with their defaults."""
    defaults = {key: value.default for key, value in inspect.signature(measure).parameters.items()}
    report(name, measure(**settings), {**defaults, **settings}, path)


def report(name, rows, settings, path=None):
    """Print the rows of a script as a table; write them as JSON if there is a path."""
    facts = {"script": name, "measured": datetime.now(UTC).isoformat(timespec="seconds"), **environment_facts()}
    machine = facts["machine"]
    print(f"\n{name}: {machine['processor']}, {machine['cores']} cores; " + ", ".join(_told(facts["versions"])))
    print(f"settings: {', '.join(_told(settings))}\n{format_table(rows)}")
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**facts, "settings": settings, "rows": rows}, indent=1, default=str)
        Path(path).write_text(text + "\n", encoding="utf-8")


def _told(values):
    return [f"{key} {value}" for key, value in values.items() if value is not None]


def environment_facts():
    """The machine and the versions that a figure depends on, found without importing the packages."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    machine = {"processor": processor(), "cores": os.cpu_count(), "platform": platform.platform()}
    return {"machine": machine, "versions": versions}


def processor():
    """The processor's name."""
    lines = cpuinfo().get("model name")
    return lines or platform.processor() or platform.machine()


def cpuinfo():
    """Linux's facts about the first core, as a dict; empty on other systems."""
    path = Path("/proc/cpuinfo")
    text = path.read_text().split("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def format_table(rows):
    """Rows (dicts) as an aligned table. A `spread` is shown as median [min, max]; a list is left to JSON."""
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, list)))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [any(isinstance(row.get(column), int | float) for row in rows) for column in columns]
    align = [str.rjust if number else str.ljust for number in numeric]
    return "\n".join("  ".join(a(c, w) for a, c, w in zip(align, line, widths)).rstrip() for line in cells)


def _cell(value):
    if isinstance(value, dict):
        return f"{_cell(value['median'])} [{_cell(value['min'])}, {_cell(value['max'])}]"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)
