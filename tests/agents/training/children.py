"""Functions in a child process, from a server of children that has loaded torch."""

import multiprocessing
from pathlib import Path

import pytest

__all__ = ["PRELOADED", "in_child"]

PRELOADED = ("tests.agents.common", "torch.utils.tensorboard", "tensorboard.summary")


def in_child(function, *arguments):
    """What a function of a module of these tests gives in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    receiver, sender = context.Pipe(duplex=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[3])  # children import from these tests
        process = context.Process(target=_send, args=(sender, function, *arguments))
        process.start()
    sender.close()
    with receiver:
        result = receiver.recv()
    process.join()
    return result


def _send(sender, function, *arguments):
    sender.send(function(*arguments))
