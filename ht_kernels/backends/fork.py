"""What torch needs after a fork so that a child can compute on several threads.

The compiled core does the rest: before a fork it lets OpenMP's threads go (csrc/cpu/fork.h).
"""

from __future__ import annotations

import os
import threading

import torch


def renew_threads() -> None:
    """In a forked child, make torch renew the pool of threads that ``torch.set_num_threads`` made in the parent.

    Otherwise several threads of the child's first parallel region do it at the same time, and most often one of them
    raises "Invalid thread pool!". Torch renews the pool when a new thread asks for the number of threads, and does
    nothing if the parent made no pool.
    """
    thread = threading.Thread(target=torch.get_num_threads)
    thread.start()
    thread.join()


def prepare() -> None:
    """Let every forked child renew torch's threads, where processes can fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew_threads)
