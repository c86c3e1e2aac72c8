"""Fuzz busseg with broken files: does one of them end a run or the page, or take all memory?

Images, clips and DICOM of many kinds are broken at random, the same way for the same seed. `busseg predict` gets
folders of them, with good images among them; `busseg app` gets files one by one. A row is a kind. All of `tracebacks`,
`aborted`, `other lines` (on stderr, not by busseg) and `hangs` (more than 10 s without an answer) should be 0, and all
`good` answered. With `--read` files are read in this process alone, many times as fast.

Example: python -m benchmarks.fuzz --images 20000 --dicom 5000 --page 300 --json fuzz.json
"""

import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from benchmarks.broken_files import break_file, clip_seeds, dicom_seeds, image_seeds
from benchmarks.cold_start import BUSSEG
from benchmarks.measuring import REPOSITORY
from benchmarks.reporting import measure_and_report, parse_arguments
from busseg.imaging.kinds import is_readable_name

QUICK = {"images": 60, "clips": 20, "dicom": 40, "page": 6, "folder": 50}
_HANG_S = 10
_GOOD = 5  # images in a folder


def measure(images=2000, clips=500, dicom=500, page=30, folder=500, seed=0, read=False):
    """Break files and give them to busseg.

    Args:
        images, clips, dicom: Number of files for `busseg predict`.
        page: Number of files for `busseg app`.
        folder: Number of files a call.
        seed: Integer; the same breaks the same way.
        read: Whether to read the files in this process instead, without a model.

    Returns:
        List of rows.
    """
    rows = []
    wanted = ("images", image_seeds(), images), ("clips", clip_seeds(), clips), ("DICOM", dicom_seeds(), dicom)
    for kind, seeds, count in wanted:
        if count:
            files = _broken(seeds, count, random.Random(f"{kind} {seed}"))
            rows.append({"kind": kind} | (_read(files) if read else _predict(files, folder)))
    if page and not read:
        seeds = image_seeds() | clip_seeds() | dicom_seeds()
        rows.append({"kind": "page"} | _ask(_broken(seeds, page, random.Random(f"page {seed}"))))
    return rows


def _broken(seeds, count, random):
    """Yield the names and bytes of broken files."""
    names, contents = list(seeds), list(seeds.values())
    for number in range(count):
        name = random.choice(names)
        suffix = Path(name).suffix if is_readable_name(Path(name)) else ".dcm"
        yield f"{number:06}{suffix}", break_file(seeds[name], contents, random)


# === In this process ===
def _read(files):
    from busseg.imaging.clips import find_clip
    from busseg.imaging.dicom import is_dicom, read_dicom
    from busseg.imaging.images import read_image

    counts, slowest, found = Counter(), 0, Counter()
    with tempfile.TemporaryDirectory() as place:
        for name, content in files:
            path = Path(place, name)
            path.write_bytes(content)
            start = time.perf_counter()
            try:
                if is_dicom(path):
                    scan = read_dicom(path)
                    for number in range(1, min(scan.frame_count, 3) + 1):
                        scan.read_frame(number)
                elif clip := find_clip(path):
                    for number in range(1, min(clip.frame_count, 3) + 1):
                        clip.read_frame(number)
                else:
                    read_image(path)
                counts["read"] += 1
            except (OSError, ValueError) as error:
                counts["refused"] += 1
                if "\n" in str(error) or str(path) not in str(error):
                    found[f"a line without its file: {error}"] += 1
            except Exception as error:
                found[f"{type(error).__name__}: {error}"] += 1
            seconds = time.perf_counter() - start
            slowest = max(slowest, seconds)
            counts["hangs"] += seconds > _HANG_S
            path.unlink()
    return {
        "files": sum(counts.values()) - counts["hangs"], "answered": counts["read"], "refused": counts["refused"],
        "tracebacks": sum(found.values()), "hangs": counts["hangs"], "slowest s": slowest, "found": list(found.items()),
    }  # fmt: skip


# === By the command line ===
def _predict(files, size):
    counts = Counter()
    slowest = memory = 0
    found = []
    start = time.perf_counter()
    while some := dict(islice(files, size)):
        with tempfile.TemporaryDirectory() as place:
            scans, out = Path(place, "scans"), Path(place, "out")
            for name, content in (some | _good(len(some))).items():
                path = scans / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            run = _watch(scans, out)
            ended = run["status"] not in (0, 1) or len(run["failed"]) < len(some) + _GOOD
            other = [line for line in run["output"].splitlines() if not line.startswith("busseg: ")]
            counts.update(files=len(some), tracebacks=run["output"].count("Traceback"), aborted=int(ended))
            counts.update(other=len(other))
            counts.update(refused=sum(failed for name, failed in run["failed"].items() if "good" not in name))
            counts.update(good=sum(not failed for name, failed in run["failed"].items() if "good" in name))
            counts.update(hangs=int(run["longest"] > _HANG_S))
            slowest, memory = max(slowest, run["longest"]), max(memory, run["memory"])
            if ended or other or run["longest"] > _HANG_S:
                kept = Path(tempfile.mkdtemp(prefix="busseg-fuzz-"))
                shutil.copytree(scans, kept / "scans")
                found.append({"folder": str(kept), "status": run["status"], "end": run["output"][-2000:]})
    expected = _GOOD * -(-counts["files"] // size)
    return {
        "files": counts["files"], "answered": counts["files"] - counts["refused"], "refused": counts["refused"],
        "good": f"{counts['good']} of {expected}", "tracebacks": counts["tracebacks"], "aborted": counts["aborted"],
        "other lines": counts["other"], "hangs": counts["hangs"], "longest wait s": slowest, "peak MB": memory / 1e6,
        "s": time.perf_counter() - start, "found": found,
    }  # fmt: skip


def _good(count):
    """Whole images, spread among the names of `count` broken files."""
    import cv2

    from busseg.data.phantom import draw_phantom

    places = [round(count * number / _GOOD) for number in range(_GOOD)]
    pngs = [cv2.imencode(".png", draw_phantom("benign", seed=number)[0])[1].tobytes() for number in range(_GOOD)]
    return {f"{place:06}-good.png": png for place, png in zip(places, pngs)}


def _watch(scans, out):
    """Run `busseg predict`; return a dict of its status, output, times and memory."""
    from busseg.storage.files import read_csv

    table = out / "predictions.csv"
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            [*BUSSEG, "predict", scans, "--model", "small", "--out", out],
            cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=output,
        )  # fmt: skip
        size, memory, longest, last = 0, 0, 0.0, time.perf_counter()
        while process.poll() is None:
            memory = max(memory, _memory(process.pid))
            now, grown = time.perf_counter(), table.stat().st_size if table.exists() else 0
            if grown > size:
                size, last = grown, now
            elif now - last > 10 * _HANG_S:
                process.kill()
            longest = max(longest, now - last)
            time.sleep(0.02)
        output.seek(0)
        text = output.read()
    failed = {}
    for row in read_csv(table) if table.exists() else ():
        name = Path(row["file"]).name
        failed[name] = failed.get(name, False) or bool(row["error"])
    return {"status": process.returncode, "output": text, "failed": failed, "memory": memory, "longest": longest}


def _memory(pid):
    """Bytes in memory of a process and of those that it started."""
    total = 0
    try:
        total += 4096 * int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += sum(_memory(int(child)) for child in (thread / "children").read_text().split())
    except OSError:  # it has ended
        pass
    return total


# === By the page ===
def _ask(files):
    from gradio_client import Client, handle_file

    output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the server
    process = subprocess.Popen(
        [*BUSSEG, "app", "--port", "0", "--model", "small"], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE,
        stderr=output,
    )  # fmt: skip
    counts, slowest, memory, found = Counter(), 0, [0], []
    try:
        address = process.stdout.readline().split()[-1]
        client = Client(address, verbose=False, analytics_enabled=False)
        threading.Thread(target=_keep_watch, args=(process, memory), daemon=True).start()
        with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(1) as pool:
            for number, (name, content) in enumerate(files):
                good = {} if number % 10 else dict(list(_good(1).items())[:1])
                for named, bytes_ in ({name: content} | good).items():
                    path = Path(place, named)
                    path.write_bytes(bytes_)
                    start = time.perf_counter()
                    try:
                        pool.submit(client.predict, handle_file(path), api_name="/predict").result(3 * _HANG_S)
                        counts["good" if good and named in good else "answered"] += 1
                    except Exception as error:
                        counts["refused"] += 1
                        if "Expected" not in str(error):
                            found.append(f"{named}: {error}")
                    seconds = time.perf_counter() - start
                    slowest = max(slowest, seconds)
                    counts["hangs"] += seconds > _HANG_S
                counts["files"] += 1
        aborted = process.poll() is not None
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
    output.seek(0)
    return {
        "files": counts["files"], "answered": counts["answered"], "refused": counts["refused"],
        "good": f"{counts['good']} of {-(-counts['files'] // 10)}",
        "tracebacks": output.read().count("Traceback") + len(found), "aborted": int(aborted),
        "hangs": counts["hangs"], "longest wait s": slowest, "peak MB": memory[0] / 1e6, "found": found,
    }  # fmt: skip


def _keep_watch(process, memory):
    while process.poll() is None:
        memory[0] = max(memory[0], _memory(process.pid))
        time.sleep(0.05)


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("--images", {"type": int, "help": "broken images for `busseg predict` (2000)"}),
        ("--clips", {"type": int, "help": "broken clips for it (500)"}),
        ("--dicom", {"type": int, "help": "broken DICOM files for it (500)"}),
        ("--page", {"type": int, "help": "broken files for `busseg app` (30)"}),
        ("--folder", {"type": int, "help": "files a call (500)"}),
        ("--seed", {"type": int, "help": "of what is broken, and how (0)"}),
        ("--read", {"action": "store_true", "help": "read them in this process alone"}),
    )
    measure_and_report("fuzz", measure, settings, path)


if __name__ == "__main__":
    main()
