"""``sb3-elmur train`` in several processes that ``torchrun`` has started: they train one agent together."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from types import FrameType

from sb3_elmur.command_line import SettingsError
from sb3_elmur.distributed import LostProcessError, current_group, joined_group


@contextmanager
def joined(device: str) -> Iterator[str]:
    """
    While it lasts, this process is one of those that ``torchrun`` started; others than the first print nothing.

    :param device: What was asked for.
    :return: This process's device.
    """
    with joined_group(device) as (group, own_device), ExitStack() as stack:
        if group.rank:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield own_device


@contextmanager
def told_how_to_go_on(run: str) -> Iterator[None]:
    """
    Around training: if another process ends, or this one is asked to, it ends too, and says how to go on.

    :param run: The run folder.
    :raises SettingsError: If another process has ended.
    """
    group = current_group()
    if group.size == 1:
        yield
        return
    cure = f"To go on, start the same torchrun with `-m sb3_elmur.zoo train --continue {shlex.quote(run)}`."

    def end(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        print(f"error: {name} has ended process {group.rank} of {group.size}. {cure}", file=sys.stderr, flush=True)
        os._exit(1)  # what waits for other processes cannot be left in another way

    before = signal.signal(signal.SIGTERM, end)  # by which torchrun ends the others when one has died
    try:
        yield
    except LostProcessError as error:
        raise SettingsError(f"{error} {cure}") from error
    finally:
        signal.signal(signal.SIGTERM, before)
