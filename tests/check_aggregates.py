#!/usr/bin/env python3
"""Counts the users of the API's response bodies by every dimension of a dataset file, and compares with rtp's figures.

    check_aggregates.py PAGES FIGURES DAY HOUR DATASET

PAGES is a folder of response bodies (*.json) of users that were fetched on DAY (2026-11-24) in the hour HOUR (UTC, 06), and
arrived as late as `arrived` says. FIGURES has what `rtp aggregate --output` writes. DATASET must declare exactly the
dimensions that are counted here. Written without any code of rtp, and by other means than its SQL, so that one mistake does
not hide behind itself. Ends 0 if all is right, 1 with the differences.
"""

import json
import pathlib
import sys
import tomllib
from collections import Counter
from datetime import date, datetime, timezone

#: How many milliseconds after its event time a user arrived, by the first eight digits of its id: both sides of each limit.
ARRIVED = [-1, 0, 999, 1_000, 59_999, 60_000, 599_999, 600_000, 3_599_999, 3_600_000, 86_399_999, 86_400_000, None]


def moment(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)


def age(born, day):
    """The number of birthdays up to the day; the 29th of February is celebrated on the 1st of March."""
    years = 0
    while True:
        try:
            birthday = date(born.year + years + 1, born.month, born.day)
        except ValueError:
            birthday = date(born.year + years + 1, 3, 1)
        if birthday > day:
            return years
        years += 1


def band(born, day):
    if born > day:
        return "under 0"
    decade = age(born, day) // 10
    return f"{decade}0-{decade}9" if decade else "0-9"


def lateness(user):
    late = ARRIVED[int(user["login"]["uuid"][:8], 16) % len(ARRIVED)]
    if late is None:
        return None
    if late < 0:
        return "early"
    for seconds, name in ((1, "1s"), (60, "1m"), (10 * 60, "10m"), (60 * 60, "1h"), (24 * 60 * 60, "1d")):
        if late / 1_000 < seconds:
            return f"under {name}"
    return "1d or more"


def domain(email):
    return email.split("@")[-1].lower() if email and "@" in email else None


def groups(day, hour):
    """The value of a user in each dimension."""
    return {
        "nationality": lambda user: user.get("nat"),
        "gender": lambda user: user.get("gender"),
        "age_band": lambda user: band(moment(user["dob"]["date"]).date(), day),
        "email_domain": lambda user: domain(user.get("email")),
        "registrations_by_month": lambda user: user["registered"]["date"][:7],
        "events_by_hour": lambda user: hour,
        "lateness": lateness,
    }


def main(pages, figures, day, hour, dataset):
    users = {}
    for page in sorted(pathlib.Path(pages).glob("*.json")):
        for user in json.loads(page.read_text()).get("results", []):
            users[user["login"]["uuid"]] = user
    counts = {name: Counter(map(group, users.values())) for name, group in groups(date.fromisoformat(day), hour).items()}
    expects = {(name, value): count for name, values in counts.items() for value, count in values.items()}
    declared = {aggregate["name"] for aggregate in tomllib.loads(pathlib.Path(dataset).read_text()).get("aggregate", [])}
    figures = [json.loads(line) for line in pathlib.Path(figures).read_text().splitlines()]
    got = {(figure["aggregate"], figure["value"]): figure["count"] for figure in figures}
    wrong = [f"{name}: expected in the dataset, which does not declare it" for name in sorted(counts.keys() - declared)]
    wrong += [f"{name}: the dataset declares it, but it is not expected here" for name in sorted(declared - counts.keys())]
    wrong += [f"{len(figures) - len(got)} figures twice"] if len(figures) != len(got) else []
    wrong += [f"{figure['aggregate']} is of {figure['day']}" for figure in figures if figure["day"] != day]
    for key in sorted(expects.keys() | got.keys(), key=str):
        if expects.get(key) != got.get(key):
            wrong.append(f"{key[0]} {key[1]!r}: expected {expects.get(key)}, got {got.get(key)}")
    by_dimension = ", ".join(f"{name} {len(values)}" for name, values in counts.items())
    print("\n".join(wrong) or f"{len(users)} users, {len(got)} figures of {len(counts)} dimensions are right: {by_dimension}")
    return bool(wrong) or not users


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
