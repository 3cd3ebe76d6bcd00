#!/usr/bin/env python3
"""Compares the stages on real servers with tools that do the same: kcat, Spark and psql.

    ./justw bench-servers [produce] [stream] [load-batch] [--events N] [--pairs N]

Every figure is for a whole process with its children, measured from outside: wall time, user and system time,
peak resident memory. Both sides run in turns on the same warm servers, each into its own, identical topics and
tables. docs/benchmarks.md explains how to read the output.
"""

import argparse
import os
import random
import re
import shlex
import statistics
import subprocess
import sys
import threading
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
FIELDS = [
    "id", "first_name", "last_name", "gender", "address", "post_code", "email", "username", "dob",
    "registered_date", "phone", "picture", "nationality", "fetched_at",
]  # fmt: skip


class Usage(NamedTuple):
    """What a process and its children used: seconds, seconds, bytes."""

    wall: float
    cpu: float
    memory: int


def measure(command, environment=None):
    """Runs a process to its end; it must succeed."""
    subprocess.run(["sync"], check=True)
    with open("stderr.log", "wb") as said:
        started = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env={**os.environ, **(environment or {})}, start_new_session=True)
        family = Family(child.pid)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.monotonic() - started
        family.end()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended {child.returncode}: {Path('stderr.log').read_text()[-2000:]}")
    return Usage(wall, max(used.ru_utime + used.ru_stime, family.cpu()), max(used.ru_maxrss * 1024, family.memory))


class Family(threading.Thread):
    """Samples all processes of a session: Spark's driver does not wait for its JVM, so the JVM's usage is not
    reported at the end."""

    def __init__(self, session):
        super().__init__(daemon=True)
        self.session = session
        self.seen = {}
        self.memory = 0
        self.over = threading.Event()
        self.start()

    def cpu(self):
        return sum(self.seen.values()) / os.sysconf("SC_CLK_TCK")

    def run(self):
        while not self.over.wait(0.2):
            self.look()

    def end(self):
        self.over.set()
        self.join()

    def look(self):
        resident = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) != self.session:
                    continue
                self.seen[folder.name] = int(fields[11]) + int(fields[12])
                # Its share of pages that several processes share: the workers are forks of one.
                share = re.search(r"(?m)^Pss: +(\d+)", (folder / "smaps_rollup").read_text())
                resident += int(share[1]) * 1024 if share else 0
            except (OSError, IndexError):
                continue  # it has ended
        self.memory = max(self.memory, resident)


def write_events(count, ndjson, tsv):
    """The same users, as `fetch` writes them and as PostgreSQL's COPY reads them."""
    generator = random.Random(count)
    places = [
        ("Friedhofstraße", "Lehrte", "Niedersachsen", "Germany"),
        ("Dame Street", "Navan", "Clare", "Ireland"),
        ("Rue du Stade", "Dijon", "Haute-Savoie", "France"),
        ("Hämeenkatu", "Kangasniemi", "Pirkanmaa", "Finland"),
    ]
    start = datetime(1945, 1, 1, tzinfo=timezone.utc)

    def moment(days):
        at = start + timedelta(days=generator.randrange(days), milliseconds=generator.randrange(86_400_000))
        return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"

    with open(ndjson, "w", encoding="utf-8") as lines, open(tsv, "w", encoding="utf-8") as table:
        for n in range(count):
            street, city, state, country = generator.choice(places)
            gender = generator.choice(["female", "male"])
            phone = generator.randrange(1000, 10_000)
            values = [
                str(uuid.UUID(int=generator.getrandbits(128), version=4)),
                generator.choice(["Alfons", "Rose", "Zoë", "Emily", "Jörg", "Océane", "Mads", "Aada"]),
                generator.choice(["Müller", "Heldt", "Tucker", "Nielsen", "Roussel", "Korhonen", "García", "Watts"]),
                gender,
                f"{generator.randrange(9999)} {street}, {city}, {state}, {country}",
                str(generator.randrange(10_000, 100_000)),
                f"user{n}@example.com",
                f"bigfish{n}",
                moment(22_000),
                moment(29_000),
                f"0{phone}-{phone}",
                f"https://example.com/api/portraits/med/{gender}/{generator.randrange(100)}.jpg",
                country[:2],
                "2026-11-01T00:00:00.000Z",
            ]
            pairs = ",".join(f'"{name}":"{value}"' for name, value in zip(FIELDS, values, strict=True))
            lines.write(f"{{{pairs}}}\n")
            table.write("\t".join(values) + "\n")


class Bench:
    """Inputs and servers of one run, in its own folder."""

    def __init__(self, options):
        self.options = options
        self.pairs = max(1, options.pairs)
        self.rtp = str(Path(options.rtp).resolve())
        self.env = servers()
        self.log = self.env["RTP_EVENT_LOG"].removeprefix("kafka://").partition("?")[0]
        self.names = 0

    def events(self, count):
        """NDJSON and TSV of this many users."""
        files = Path(f"users-{count}.ndjson"), Path(f"users-{count}.tsv")
        if not all(file.exists() for file in files):
            write_events(count, *files)
        return files

    def dataset(self):
        """The users dataset with a new topic, new tables, and one table in each store, as the peers have."""
        self.names += 1
        name = f"bench_{os.getpid()}_{self.names}"
        text = (PROJECT / "schema/users.toml").read_text(encoding="utf-8")
        text = re.sub(r"\[\[realtime\.series\]\].*?\n\n", "", text, flags=re.DOTALL)
        text = re.sub(r"(?m)^history = .*\n", "", text)
        for setting, value in [("topic", name), ("keyspace", name), ("table", f"{name}_users")]:
            text, changed = re.subn(rf'(?m)^{setting} = "[^"]*"', f'{setting} = "{value}"', text)
            if not changed:
                sys.exit(f"the users dataset has no {setting}")
        file = Path(f"{name}.toml")
        file.write_text(text, encoding="utf-8")
        self.run("init", "--dataset", str(file))
        return name, str(file)

    def run(self, *args):
        return measure([self.rtp, *args], self.env)

    def sql(self, statement):
        subprocess.run([*self.psql(), "-qc", statement], check=True)

    def psql(self):
        return ["psql", "-X", "-v", "ON_ERROR_STOP=1", self.env["RTP_BATCH_STORE"]]

    def compare(self, name, events, ours, peer, peer_name):
        """Runs both in turns, each first in every second pair."""
        runs = []
        for pair in range(self.pairs):
            sides = [ours, peer] if pair % 2 == 0 else [peer, ours]
            used = [side() for side in sides]
            runs.append(used if pair % 2 == 0 else used[::-1])
            print(f"{name} pair {pair + 1}: rtp {runs[-1][0].wall:.2f} s, {peer_name} {runs[-1][1].wall:.2f} s", file=sys.stderr)
        print(f"{name}, {events:,} events{'':<8} {'wall s':>8} {'events/s':>9} {'CPU us/event':>13} {'peak MB':>8}")
        for side, label in enumerate(["rtp", peer_name]):
            wall = statistics.median(pair[side].wall for pair in runs)
            cpu = statistics.median(pair[side].cpu for pair in runs)
            memory = max(pair[side].memory for pair in runs)
            print(f"  {label:<28} {wall:>8.2f} {events / wall:>9,.0f} {cpu * 1e6 / events:>13.2f} {memory / 1e6:>8.1f}")
        for label, of in [("speed", lambda u: u.wall), ("CPU", lambda u: u.cpu), ("memory", lambda u: u.memory)]:
            ratios = sorted(of(peer) / of(ours) for ours, peer in runs)
            print(f"  {label:<8} {statistics.median(ratios):>7.2f}x better than {peer_name} ({ratios[0]:.2f} to {ratios[-1]:.2f})")

    def produce(self):
        """kcat sends the lines unchanged: it neither checks nor keys them."""
        events = self.options.events
        file = str(self.events(events)[0])

        def ours():
            _, dataset = self.dataset()
            return self.run("produce", "--dataset", dataset, file)

        def kcat():
            topic, _ = self.dataset()
            return measure(["kcat", "-P", "-q", "-b", self.log, "-t", topic, "-X", "acks=all", "-X", "linger.ms=5", "-l", file])

        self.compare("produce", events, ours, kcat, "kcat")

    def stream(self):
        """The Spark job writes the same rows from the same topic."""
        events = self.options.events * 2 // 5
        file = str(self.events(events)[0])
        topic, dataset = self.dataset()
        self.run("produce", "--dataset", dataset, file)

        def fresh():
            """The same topic into a separate keyspace."""
            name, own = self.dataset()
            text = Path(own).read_text(encoding="utf-8")
            Path(own).write_text(text.replace(f'topic = "{name}"', f'topic = "{topic}"'), encoding="utf-8")
            return name, own

        def ours():
            name, own = fresh()
            return self.run("stream", "--until-end", "--dataset", own, "--group", name)

        def spark():
            """Subtracts what the same job uses with nothing to do, mostly the start of its JVM."""
            name, own = fresh()
            job = [str(PROJECT / "spark/run"), "--until-end", "--dataset", own, "--group", name, "--checkpoint", str(Path(name).resolve())]
            environment = {**self.env, "RTP_BIN": self.rtp}
            used = measure(job, environment)
            idle = measure(job, environment)
            print(f"stream: Spark's job took {used.wall:.1f} s, of which {idle.wall:.1f} s were its start", file=sys.stderr)
            return Usage(used.wall - idle.wall, used.cpu - idle.cpu, used.memory)

        self.compare("stream", events, ours, spark, "Spark")

    def load_batch(self):
        """psql copies ready-made TSV into an identical table, including the digests."""
        events = self.options.events
        ndjson, tsv = self.events(events)
        columns = ", ".join(FIELDS)

        def ours():
            _, dataset = self.dataset()
            return self.run("load-batch", "--dataset", dataset, str(ndjson))

        def psql():
            name, _ = self.dataset()
            table = f"{name}_users"
            self.sql(f"ALTER TABLE {table} ALTER rtp_digest SET DEFAULT '\\x00112233445566778899aabbccddeeff'")
            return measure([*self.psql(), "-qc", f"\\copy {table} ({columns}) FROM '{tsv}'"])

        self.compare("load-batch", events, ours, psql, "psql \\copy")

    def warm(self):
        """Freshly started servers are half as fast; a broker needs about ten rounds until its code is compiled."""
        events = min(self.options.events * 2 // 5, 400_000)
        file = str(self.events(events)[0])
        for _ in range(10):
            _, dataset = self.dataset()
            self.run("produce", file, "--dataset", dataset)
        for stage in [["stream", "--until-end"], ["load-batch", file]]:
            self.run(*stage, "--dataset", dataset)


def servers():
    """The addresses, from the environment or from the stack in .stack."""
    names = ["RTP_EVENT_LOG", "RTP_REALTIME_STORE", "RTP_BATCH_STORE"]
    missing = [name for name in names if name not in os.environ]
    if missing:
        sys.exit(f"{', '.join(missing)} not set: run it by `just bench-servers`")
    return {name: os.environ[name] for name in names}


def main():
    stages = {"produce": Bench.produce, "stream": Bench.stream, "load-batch": Bench.load_batch}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="produce, stream, load-batch; all by default")
    parser.add_argument("--events", type=int, default=1_000_000, help="events of the input; stream uses two fifths of them")
    parser.add_argument("--pairs", type=int, default=3, help="how often each side runs")
    parser.add_argument("--rtp", default=os.environ.get("RTP_BIN", PROJECT / "target/release/rtp"), help="the binary")
    parser.add_argument("--dir", default=PROJECT / ".stack/bench", help="folder of inputs and datasets")
    parser.add_argument("--no-warm", action="store_true", help="skip the warm-up: the servers are already warm")
    options = parser.parse_args()
    Path(options.dir).mkdir(parents=True, exist_ok=True)
    unknown = set(options.stages) - set(stages)
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    bench = Bench(options)
    os.chdir(options.dir)
    if not options.no_warm:
        bench.warm()
    for name in options.stages or stages:
        stages[name](bench)


if __name__ == "__main__":
    main()
