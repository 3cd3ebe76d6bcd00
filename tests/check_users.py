#!/usr/bin/env python3
"""Compares both stores of the users dataset with the API's response bodies, field by field.

    check_users.py PAGES REALTIME BATCH AS_OF [FOLDER]

PAGES is a folder of response bodies (*.json), AS_OF the event time of the run in RFC 3339. A store
is its SQLite file, or a file *.ndjson with what a real server's own tools say of its rows:

    cqlsh -e 'PAGING OFF; SELECT JSON * FROM realtime.users' > realtime.ndjson
    psql -Atc 'SELECT row_to_json(u) FROM batch_users u' > batch.ndjson

With FOLDER it also looks for the API's hashes, for some 500 of its salts, and for values named as its
secrets are, in every file below that folder.
Written without any code of rtp, so that one mistake does not hide behind itself. Ends 0 if all is
right, 1 with the differences.
"""

import json
import pathlib
import re
import sqlite3
import sys
from datetime import datetime, timezone


def milliseconds(text):
    """The API's dates have milliseconds and Z, as the stores' views show them."""
    assert text.endswith("Z") and len(text) == 24, text
    return text


def expected(user, as_of):
    place = user["location"]
    street = place["street"]
    address = f"{street['number']} {street['name']}, {place['city']}, {place['state']}, {place['country']}"
    return {
        "id": user["login"]["uuid"],
        "first_name": user["name"]["first"],
        "last_name": user["name"]["last"],
        "gender": user["gender"],
        "address": address,
        "post_code": str(place["postcode"]),
        "email": user["email"],
        "username": user["login"]["username"],
        "dob": milliseconds(user["dob"]["date"]),
        "registered_date": milliseconds(user["registered"]["date"]),
        "phone": user["phone"],
        "picture": user["picture"]["medium"],
        "nationality": user["nat"],
        "fetched_at": as_of,
    }


def rows(file, table):
    if not file.endswith(".ndjson"):
        db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        cursor = db.execute(f"SELECT * FROM {table}")
        columns = [column[0] for column in cursor.description]
        yield from (dict(zip(columns, values)) for values in cursor)
        return
    for line in open(file, encoding="utf-8"):
        # cqlsh prints a title above the rows and their number below.
        if line.strip().startswith("{"):
            row = {name: value for name, value in json.loads(line).items() if not name.startswith("rtp_")}
            for name in ("dob", "registered_date", "fetched_at"):
                at = datetime.fromisoformat(row[name].replace(" ", "T")).astimezone(timezone.utc)
                assert at.microsecond % 1000 == 0, f"{name} of {row['id']}: {row[name]}"
                row[name] = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"
            yield row


def differences(file, table, users):
    stored = {}
    for row in rows(file, table):
        if row["id"] in stored:
            yield f"{table}: {row['id']} is there twice"
        stored[row["id"]] = row
    for key in users.keys() - stored.keys():
        yield f"{table}: {key} is missing"
    for key in stored.keys() - users.keys():
        yield f"{table}: {key} is not a user of the API"
    for key in users.keys() & stored.keys():
        for column in users[key].keys() | stored[key].keys():
            want, got = users[key].get(column), stored[key].get(column)
            if want != got or type(want) is not type(got):
                yield f"{table}: {key} {column}: expected {want!r}, got {got!r}"


def leaks(folder, hashes, salts):
    """Finds secrets: hashes by their first 32 hexadecimal digits, salts literally, and JSON names."""
    starts = {digest[:32].encode() for digest in hashes}
    for path in pathlib.Path(folder).rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        for run in re.findall(rb"[0-9a-f]{32,}", content):
            for at in range(len(run) - 31):
                if run[at : at + 32] in starts:
                    yield f"{path}: holds the hash {run[at:at + 32].decode()}..."
        for salt in salts:
            if salt.encode() in content:
                yield f"{path}: holds the salt {salt}"
        for name in (b'"password"', b'"salt"', b'"md5"', b'"sha1"', b'"sha256"'):
            if name in content:
                yield f"{path}: holds a value named {name.decode()}"


def main():
    pages, realtime, batch, as_of = sys.argv[1:5]
    users, hashes, salts = {}, set(), []
    for page in sorted(pathlib.Path(pages).glob("*.json")):
        for user in json.loads(page.read_text(encoding="utf-8"))["results"]:
            users[user["login"]["uuid"]] = expected(user, as_of)
            hashes.update(user["login"][name] for name in ("md5", "sha1", "sha256"))
            salts.append(user["login"]["salt"])
    found = [*differences(realtime, "users", users), *differences(batch, "batch_users", users)]
    for folder in sys.argv[5:]:
        found.extend(leaks(folder, hashes, salts[:: max(1, len(salts) // 500)]))
    for line in found[:50]:
        print(line)
    unusual = {
        "non-ASCII names": sum(not (u["first_name"] + u["last_name"]).isascii() for u in users.values()),
        "post codes with letters": sum(not u["post_code"].isdigit() for u in users.values()),
    }
    print(f"{len(users)} users, {len(found)} differences; " + ", ".join(f"{n} {what}" for what, n in unusual.items()))
    sys.exit(1 if found or not users else 0)


main()
