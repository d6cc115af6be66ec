"""Damaged files: what is read is what was written, or is refused by an error that a command tells in one line."""

import multiprocessing
import os
import random
import re
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

CPU_SECONDS, WALL_SECONDS, SPARE_BYTES = 20, 300, 2**30  # that one file may take
NUMBERS = (b"0", b"-1", b"1e400", b"10000000000000000000", b"nan", b"true", b"null", b"[]", b"{}", b'"x"', b"2.5", b"lin_x")
Read = Callable[[Path], bool]


class Target(NamedTuple):
    """
    A kind of files, and what reads them.

    :param name: What is counted.
    :param originals: Contents that are right.
    :param suffix: Of the files' names.
    :param read: Reads a file that may be damaged, raises what a command tells in one line, or returns whether what it has read
        is what was written.
    :param count: How many damaged files are tried.
    :param text: Whether the files are text, of which numbers, names and lines are changed, too.
    """

    name: str
    originals: list[bytes]
    suffix: str
    read: Read
    count: int
    text: bool = False


def mutated(content: bytes, rng: random.Random, text: bool) -> bytes:
    """
    A damaged copy: changed bits and bytes, parts that are lost, doubled, moved or foreign, and for text other values.

    :param content: The original.
    :param rng: What draws.
    :param text: See :class:`Target`.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        where = rng.randrange(len(content) + 1)
        end = min(len(content), where + rng.choice((1, 2, 4, 16, 64, 512)))
        kind = rng.randrange(9 if text else 6)
        if kind == 0 and content:
            at = where % len(content)
            content = content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        elif kind == 1:
            content = content[:where] + rng.randbytes(end - where) + content[end:]
        elif kind == 2:
            content = content[:where] + content[end:]
        elif kind == 3:
            content = content[:end] + content[where:end] * rng.choice((1, 5)) + content[end:]
        elif kind == 4:
            content = content[: rng.randrange(len(content) + 1)] if rng.random() < 0.3 else content
        elif kind == 5:
            content = content[:where] + rng.choice((b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x80")) + content[end:]
        elif kind == 6:
            content = _replace_token(content, rb"-?\d[\d.e+-]*|true|false|null", rng.choice(NUMBERS), rng)
        elif kind == 7:
            content = _replace_token(content, rb"[A-Za-z_]\w+", rng.choice((b"x", b"n_envs", b"", b"os.system", b"true")), rng)
        else:
            lines = content.split(b"\n")
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[i], lines[j] = rng.choice(((lines[j], lines[i]), (b"", lines[j]), (b"  " + lines[i], lines[j])))
            content = b"\n".join(lines)
    return content


def _replace_token(content: bytes, pattern: bytes, new: bytes, rng: random.Random) -> bytes:
    tokens = list(re.finditer(pattern, content))
    if not tokens:
        return content
    token = rng.choice(tokens)
    return content[: token.start()] + new + content[token.end() :]


def try_target(target: Target, mistakes: tuple[type[Exception], ...], seed: int, seconds: float) -> dict[str, Any]:
    """
    Try damaged files of one kind, in a process of its own, so that not even a crash ends the campaign.

    :param target: What is tried.
    :param mistakes: Errors that a command tells in one line.
    :param seed: Of what is drawn.
    :param seconds: How long it may take.
    :return: Counts of files read as written, refused, read as something else (``silent``), foreign errors, hangs and crashes;
        the first foreign errors; and seconds.
    """
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    begun, index = time.monotonic(), 0
    while index < target.count and time.monotonic() - begun < seconds:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        left = seconds - (time.monotonic() - begun)
        process = multiprocessing.get_context("fork").Process(
            target=_work, args=(target, mistakes, seed, index, left, sender), daemon=True
        )
        process.start()
        sender.close()
        outcome = None
        try:
            while receiver.poll(WALL_SECONDS):
                outcome, error = receiver.recv()
                if outcome == "end":
                    break
                counts[outcome] += 1
                errors.update([error] if error else [])
                index += 1
            else:
                counts["hang"] += 1
                index += 1
        except EOFError:
            counts["crash"] += 1
            index += 1
        process.kill()
        process.join()
        if outcome == "end":
            break
    result = {name: counts[name] for name in ("as_written", "refused", "silent", "foreign", "hang", "crash")}
    return {
        "tried": sum(counts.values()),
        **result,
        "seconds": round(time.monotonic() - begun),
        "messages": dict(errors.most_common(8)),
    }


def _work(
    target: Target, mistakes: tuple[type[Exception], ...], seed: int, first: int, seconds: float, sender: Connection
) -> None:
    """Read damaged files from the first one on, and send what became of each."""

    def interrupt(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, interrupt)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{target.suffix}"
        for index in range(first, target.count):
            if time.monotonic() > end:
                break
            rng = random.Random(f"{target.name} {seed} {index}")
            path.write_bytes(mutated(rng.choice(target.originals), rng, target.text))
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            try:
                outcome = ("as_written" if target.read(path) else "silent"), ""
            except TimeoutError:
                outcome = "hang", ""
            except mistakes as error:
                outcome = "refused", "" if str(error) else repr(error)
            except BaseException as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                outcome = (
                    "foreign",
                    f"{index}: {type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"[:200],
                )
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            sender.send(outcome)
    sender.send(("end", ""))
