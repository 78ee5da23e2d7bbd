"""One way in a process of its own: ``python -m benchmarks.engines.worker WAY PRECISION MODEL FRAMES RESULTS``.

It opens the model, writes the logits of the frames to RESULTS, and answers each line on stdin, a number of seconds,
with the seconds that each call took in so many of them. The first line that it writes says that it is ready.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines.worker", description=__doc__)
    for argument in ("way", "precision", "model", "frames", "results"):
        parser.add_argument(argument, metavar=argument.upper())
    args = parser.parse_args()
    from .ways import WAYS, model, upsampled

    way = next(way for way in WAYS if (way.name, way.precision) == (args.way, args.precision))
    frames = np.load(args.frames)[:, None]
    run, size = way.open(model(args.model)), frames.shape[-2:]
    np.save(args.results, np.concatenate([upsampled(run(frame), size) for frame in frames]))
    print(json.dumps([]), flush=True)
    following = itertools.cycle(frames)
    for line in sys.stdin:
        times: list[float] = []
        end = time.perf_counter() + float(line)
        run(next(following))  # wakes the threads; another process has just used the caches
        while len(times) < 2 or time.perf_counter() < end:
            frame = next(following)
            start = time.perf_counter()
            logits = run(frame)
            if way.after is not None:
                way.after(logits, size)
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
