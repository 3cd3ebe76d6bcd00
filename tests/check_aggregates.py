#!/usr/bin/env python3
"""Counts the users of the API's response bodies by every dimension of schema/users.toml, and compares with rtp's figures.

    check_aggregates.py PAGES FIGURES DAY HOUR

PAGES is a folder of response bodies (*.json) of users that were fetched on DAY (2026-11-24) in the hour HOUR (UTC, 06).
FIGURES has what `rtp aggregate --output` writes. Written without any code of rtp, and by other means than its SQL, so
that one mistake does not hide behind itself. Ends 0 if all is right, 1 with the differences.
"""

import json
import pathlib
import sys
from collections import Counter
from datetime import date, datetime, timezone


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


def expected(users, day, hour):
    """The number of users by dimension and value."""
    counts = {}
    for user in users:
        email = user.get("email")
        groups = {
            "nationality": user.get("nat"),
            "gender": user.get("gender"),
            "age_band": band(moment(user["dob"]["date"]).date(), day),
            "email_domain": email.split("@")[-1].lower() if email and "@" in email else None,
            "registrations_by_month": user["registered"]["date"][:7],
            "events_by_hour": hour,
        }
        for aggregate, value in groups.items():
            counts.setdefault(aggregate, Counter())[value] += 1
    return {(aggregate, value): n for aggregate, of in counts.items() for value, n in of.items()}


def main(pages, figures, day, hour):
    users = {}
    for page in sorted(pathlib.Path(pages).glob("*.json")):
        for user in json.loads(page.read_text()).get("results", []):
            users[user["login"]["uuid"]] = user
    expects = expected(users.values(), date.fromisoformat(day), hour)
    figures = [json.loads(line) for line in pathlib.Path(figures).read_text().splitlines()]
    got = {(figure["aggregate"], figure["value"]): figure["count"] for figure in figures}
    wrong = [f"{len(figures) - len(got)} figures twice"] if len(figures) != len(got) else []
    wrong += [f"{figure['aggregate']} is of {figure['day']}" for figure in figures if figure["day"] != day]
    for key in sorted(expects.keys() | got.keys(), key=str):
        if expects.get(key) != got.get(key):
            wrong.append(f"{key[0]} {key[1]!r}: expected {expects.get(key)}, got {got.get(key)}")
    print("\n".join(wrong) or f"{len(users)} users, {len(got)} figures")
    return bool(wrong) or not users


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
