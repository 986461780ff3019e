"""The Python half of worker.rs: the same protocol and the same measure of a step's memory."""

import argparse
import ctypes
import gc
import json
import sys
import time

_parser = argparse.ArgumentParser()
_parser.add_argument("--workload", required=True)
_parser.add_argument("--threads", type=int, required=True)
_parser.add_argument("--mode", default="eager")
ASKED = _parser.parse_args()

WARM_UP = 3


def _status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024


def _step_mb(run):
    """MiB at the peak of one step beyond what was resident before it, gradients included."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status("VmRSS")
    run()
    return round(_status("VmHWM") - before, 2)


def _say(message):
    print(json.dumps(message), flush=True)


def serve(workloads, finish):
    """Prepares the workload, says so, and times repetitions for each line on standard input."""
    try:
        start = time.perf_counter()
        step = workloads[ASKED.workload]()
        run = lambda: finish(step())
        run()
        first = time.perf_counter() - start
        for _ in range(WARM_UP):
            run()
        _say({"ready": True, "first_s": round(first, 3), "step_mb": _step_mb(run)})
    except BaseException as error:  # whatever it is, the driver is told
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        _say({"error": text[:300]})
        return
    for line in sys.stdin:
        limit, times, start = float(line), [], time.perf_counter()
        while not times or time.perf_counter() - start < limit:
            clock = time.perf_counter()
            run()
            times.append(round((time.perf_counter() - clock) * 1e3, 5))
        _say(times)
