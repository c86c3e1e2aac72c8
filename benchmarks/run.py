"""Run all the scripts that measure the machine and busseg on it, one after the other, and keep what they find.

With `--quick` each takes small settings, a few minutes in all, to see that everything runs; the figures say little.

Example: python -m benchmarks.run --quick --out benchmark-results
"""

import argparse
import importlib
import inspect
import sys
import time
from pathlib import Path

from benchmarks.reporting import measure_and_report

SCRIPTS = ("machine", "models", "training", "ladder", "pipeline", "epoch", "inference", "predict", "app", "cold_start")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="dataset folder, such as data/busi; phantoms without")
    parser.add_argument("--quick", action="store_true", help="small settings")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, metavar="NAME", help="which scripts")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder for a JSON file a script")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with segmentation_models_pytorch")
    told = vars(parser.parse_args())
    failed = []
    for name in told["only"]:
        script, start = importlib.import_module(f"benchmarks.{name}"), time.perf_counter()
        takes = inspect.signature(script.measure).parameters
        settings = {key: told[key] for key in ("data", "torch_python") if key in takes}
        settings |= script.QUICK if told["quick"] else {}
        try:
            measure_and_report(name, script.measure, settings, told["out"] / f"{name}.json")
        except RuntimeError as error:  # of a worker; the other scripts go on
            failed.append(name)
            print(f"\n{name} failed: {error}", file=sys.stderr)
        print(f"{name} took {time.perf_counter() - start:.0f} s")
    print(f"\nWrote {told['out']}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
