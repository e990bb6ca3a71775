"""The same work again and again in forked children, each killed with -9 at another moment, until one ends by itself."""

import os
import signal
import sys
import time


def rerun_until_it_ends(work, delay):
    """Exits with the code of the child that ended; prints how often children were killed.

    work: called in a child with how often it was killed so far; returns an exit code, and may kill its process.
    delay: seconds after which to kill the child, for how often it was killed so far; None to wait for its end.
    """
    kills = 0
    while True:
        child = os.fork()  # before torch has started threads here, so that the child may start its own
        if child == 0:
            os._exit(work(kills))
        seconds = delay(kills)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            print(kills)
            sys.exit(os.WEXITSTATUS(status))
        kills += 1
