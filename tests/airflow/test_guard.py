"""Whatever the tests start stops with them, even if they are killed, and even if it has its own session."""

import os
import pathlib
import signal
import subprocess
import sys

from conftest import GUARD, wait_for


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_all_ends_with_a_parent_that_is_killed(tmp_path):
    pids = tmp_path / "pids"
    script = f"setsid bash -c 'trap \"\" TERM; echo $$ >> {pids}; while :; do sleep 1; done' & echo $$ >> {pids}; wait"
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run({[*GUARD, 'bash', '-c', script]!r})"])
    started = wait_for("both", lambda: pids.exists() and len(lines := pids.read_text().split()) == 2 and [int(one) for one in lines], 20)
    assert all(map(alive, started))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for("their end", lambda: not any(map(alive, started)), 20)
