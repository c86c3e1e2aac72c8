"""Run all scripts that measure the speed of the machine and of busseg, one after the other, and keep their results.

With `--quick` each uses small settings, a few minutes in all, to check that everything runs; the figures mean little.

Example: python -m benchmarks.run --quick --out benchmark-results
"""

import argparse
import importlib
import inspect
import sys
import time
from pathlib import Path

from benchmarks.reporting import measure_and_report

SCRIPTS = (
    "machine",
    "models",
    "training",
    "ladder",
    "pipeline",
    "augmentation",
    "epoch",
    "inference",
    "packaged",
    "predict",
    "predict_steps",
    "app",
    "cold_start",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="dataset folder, such as data/busi; phantoms without")
    parser.add_argument("--quick", action="store_true", help="small settings")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, metavar="NAME", help="which scripts")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder for a JSON file a script")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with segmentation_models_pytorch")
    arguments = vars(parser.parse_args())
    failed = []
    for name in arguments["only"]:
        script, start = importlib.import_module(f"benchmarks.{name}"), time.perf_counter()
        takes = inspect.signature(script.measure).parameters
        settings = {key: arguments[key] for key in ("data", "torch_python") if key in takes}
        settings |= script.QUICK if arguments["quick"] else {}
        try:
            measure_and_report(name, script.measure, settings, arguments["out"] / f"{name}.json")
        except RuntimeError as error:  # of a worker; the other scripts continue
            failed.append(name)
            print(f"\n{name} failed: {error}", file=sys.stderr)
        print(f"{name} took {time.perf_counter() - start:.0f} s")
    print(f"\nWrote {arguments['out']}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
