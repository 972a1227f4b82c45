"""Requests a second and latencies of ``mmpvt serve``, beside the bare model in a loop.

python tools/benchmarks/serving.py CONFIG CHECKPOINT IMAGE [--overload 5000] [--batch 8]
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mmpvt

TOOLS = Path(__file__).parents[1]
WARM_UP = 10  # requests
QUEUE = 64
CPU, MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("image", type=Path)
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--overload", type=int, metavar="N", help="requests by four times as many clients as fit"
    )
    args = parser.parse_args()
    mmpvt.setup_environment()
    print("| | images/s | p50, ms | p99, ms | processor, ms an image |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    print_row("the model in a loop", *bare(args))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(TOOLS / "serve.py"), args.config, args.checkpoint]
    command += ["--port", str(port), "--batch", str(args.batch), "--queue", str(QUEUE)]
    command += ["--device", args.device] if args.device else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout and "ready" in server.stdout.readline()
            content = args.image.read_bytes()
            ask(port, content, 1, requests=WARM_UP)
            for clients in args.clients:
                before = metric(port, CPU)
                _, times = ask(port, content, clients, seconds=args.seconds)
                print_row(f"{clients} clients", times, metric(port, CPU) - before)
            if args.overload:
                ask(port, content, 4 * QUEUE, requests=args.overload, report=print_memory(port))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def bare(args: argparse.Namespace) -> tuple[list[float], float]:
    """Seconds that each image takes in a loop, to decode, prepare, predict and encode; and those of
    the processor, in all."""
    from mmpvt.server.answers import JSON, Answers  # after setup_environment()

    predictor = mmpvt.Predictor(args.config, args.checkpoint, args.device)
    answers = Answers(predictor, 0.3)
    times: list[float] = []
    for _ in range(WARM_UP):
        (sample,) = predictor.predict([answers.prepare(args.image)[0]])
    end, before = time.perf_counter() + args.seconds, time.process_time()
    while (start := time.perf_counter()) < end:
        (sample,) = predictor.predict([answers.prepare(args.image)[0]])
        answers.encode(sample, args.image, JSON, None)
        times.append(time.perf_counter() - start)
    return times, time.process_time() - before


def ask(
    port: int,
    content: bytes,
    clients: int,
    seconds: float = float("inf"),
    requests: float = float("inf"),
    report: Callable[[int, Counter], None] = lambda done, codes: None,
) -> tuple[Counter, list[float]]:
    """Asks by so many clients at once, each of which waits for its answer; counts of their codes
    and the seconds that those with a prediction took."""
    codes: Counter = Counter()
    times: list[float] = []
    lock, end = threading.Lock(), time.perf_counter() + seconds
    left = requests

    def client() -> None:
        nonlocal left
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                left -= 1
                if left < 0 or time.perf_counter() > end:
                    return
            start = time.perf_counter()
            connection.request("POST", "/predict", content, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            assert json.loads(answer.read())
            with lock:
                codes[answer.status] += 1
                if answer.status == 200:
                    times.append(time.perf_counter() - start)
                report(sum(codes.values()), codes)
            if answer.status != 200:
                time.sleep(0.1)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes, times


def print_memory(port: int) -> Callable[[int, Counter], None]:
    """Prints the server's memory at every 500th answer."""

    def report(done: int, codes: Counter) -> None:
        if done % 500 == 0:
            size = metric(port, MEMORY) / 2**20
            print(f"{done} requests: {dict(codes)}, {size:.0f} MB", flush=True)

    return report


def metric(port: int, name: str) -> float:
    """A number of the server's /metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def print_row(what: str, times: list[float], cpu: float) -> None:
    """A row of the table; of requests at once, the rate is by Little's law."""
    clients = int(what.split()[0]) if what[0].isdigit() else 1
    rate = clients / statistics.mean(times)
    p50, p99 = (statistics.quantiles(times, n=100)[i] for i in (49, 98))
    cells = (what, f"{rate:.1f}", *(f"{1000 * t:.0f}" for t in (p50, p99, cpu / len(times))))
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
