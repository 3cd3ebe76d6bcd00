"""Runs a program, and stops it and everything it started when this process or its parent ends, however they end.

    guard.py PROGRAM ARGUMENT...

Airflow's tasks have sessions of their own, so that ending a process group would miss them: this process takes their
orphans in (Linux's subreaper), and so finds every one among its own descendants.
"""

import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import time

SUBREAPER = 36
PATIENCE_SECONDS = 10
#: How often in a row nothing must be found before this ends.
EMPTY_LOOKS = 3


def main():
    parent = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit(f"guard: cannot become a subreaper: {os.strerror(ctypes.get_errno())}")
    told = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: told.append(got))
    child = subprocess.Popen(sys.argv[1:])
    while not told and child.poll() is None and os.getppid() == parent:
        time.sleep(0.1)
    end_all()
    sys.exit(child.poll() if child.poll() is not None and child.poll() >= 0 else 1)


def end_all():
    deadline = time.monotonic() + PATIENCE_SECONDS
    sent = set()
    empty = 0
    # A process that ends while /proc is being read hides its children for that moment.
    while empty < EMPTY_LOOKS:
        alive = descendants(os.getpid())
        empty = 0 if alive else empty + 1
        late = time.monotonic() > deadline
        for pid in alive:
            if late or pid not in sent:
                send(pid, signal.SIGKILL if late else signal.SIGTERM)
                sent.add(pid)
        reap()
        time.sleep(0.1)


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def descendants(root):
    """All living processes below this one."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found, new = [], [root]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found += new
    return found


if __name__ == "__main__":
    main()
