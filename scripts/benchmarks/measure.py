"Timing in rounds, and tables."
import gc
import statistics
import time

clock = time.thread_time   # processor time of this thread, on which other jobs have little influence


def times(call, arguments):
    "Seconds of each `call(argument)`."
    found = []
    for argument in arguments:
        start = clock(); call(argument); found.append(clock() - start)
    return found


def best(cases, repeats):
    """{name: seconds} of {name: function that measures once and returns seconds or a list of them}.

    The cases take turns, so that whatever else the machine does falls on all of them. The median of a list counts,
    and the best of all rounds; a first round is thrown away.
    """
    rounds = {name: [] for name in cases}
    for k in range(repeats + 1):
        for name, measure in cases.items():
            gc.collect()
            seconds = measure()
            if k: rounds[name].append(statistics.median(seconds) if isinstance(seconds, list) else seconds)
    return {name: min(found) for name, found in rounds.items()}


def clock_of(call):
    "Processor seconds of this process, all threads, in one call."
    start = time.process_time(); call()
    return time.process_time() - start


def rounds(cases, repeats):
    "{name: median} of {name: function that measures once}; the cases take turns, and a first round is thrown away."
    found = {name: [] for name in cases}
    for k in range(repeats + 1):
        for name, measure in cases.items():
            gc.collect()
            value = measure()
            if k: found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def median(values): return statistics.median(values)


def milliseconds(seconds): return f"{1000 * seconds:.3g} ms"
def ratio(value): return f"{float(f'{value:.2g}'):g}×"
def rate(seconds): return f"{float(f'{1 / seconds:.3g}'):,.0f} /s".replace(",", " ")


def verdict(value, target):
    return "" if target is None else f"{target:,} {'met' if value >= target else '**missed**'}".replace(",", " ")


def table(head, rows):
    "A markdown table; the first column is text."
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
