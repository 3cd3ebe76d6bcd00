-- Derived from the dataset users by `rtp init --dry-run`; do not edit.

CREATE TABLE IF NOT EXISTS "users_rows" (
  "id" BLOB NOT NULL,
  "first_name" TEXT,
  "last_name" TEXT,
  "gender" TEXT,
  "address" TEXT,
  "post_code" TEXT,
  "email" TEXT,
  "username" TEXT,
  "dob" INTEGER,
  "registered_date" INTEGER,
  "phone" TEXT,
  "picture" TEXT,
  "nationality" TEXT,
  "fetched_at" INTEGER NOT NULL,
  "rtp_digest" BLOB NOT NULL,
  "rtp_partition" INTEGER NOT NULL,
  "rtp_offset" INTEGER NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS "users_key" ON "users_rows" ("id");

CREATE VIEW IF NOT EXISTS "users" AS SELECT
  nullif(lower(substr(hex("id"), 1, 8) || '-' || substr(hex("id"), 9, 4) || '-' || substr(hex("id"), 13, 4) || '-' || substr(hex("id"), 17, 4) || '-' || substr(hex("id"), 21, 12)), '----') AS "id",
  "first_name",
  "last_name",
  "gender",
  "address",
  "post_code",
  "email",
  "username",
  strftime('%Y-%m-%dT%H:%M:%fZ', "dob" / 1000.0, 'unixepoch') AS "dob",
  strftime('%Y-%m-%dT%H:%M:%fZ', "registered_date" / 1000.0, 'unixepoch') AS "registered_date",
  "phone",
  "picture",
  "nationality",
  strftime('%Y-%m-%dT%H:%M:%fZ', "fetched_at" / 1000.0, 'unixepoch') AS "fetched_at"
FROM "users_rows";

CREATE VIEW IF NOT EXISTS "users_by_hour" AS SELECT
  strftime('%Y-%m-%dT%H:%M:%SZ', ("fetched_at" - ("fetched_at" % 3600000 + 3600000) % 3600000) / 1000, 'unixepoch') AS "hour",
  nullif(lower(substr(hex("id"), 1, 8) || '-' || substr(hex("id"), 9, 4) || '-' || substr(hex("id"), 13, 4) || '-' || substr(hex("id"), 17, 4) || '-' || substr(hex("id"), 21, 12)), '----') AS "id",
  "first_name",
  "last_name",
  "gender",
  "address",
  "post_code",
  "email",
  "username",
  strftime('%Y-%m-%dT%H:%M:%fZ', "dob" / 1000.0, 'unixepoch') AS "dob",
  strftime('%Y-%m-%dT%H:%M:%fZ', "registered_date" / 1000.0, 'unixepoch') AS "registered_date",
  "phone",
  "picture",
  "nationality",
  strftime('%Y-%m-%dT%H:%M:%fZ', "fetched_at" / 1000.0, 'unixepoch') AS "fetched_at"
FROM "users_rows" ORDER BY "fetched_at";

CREATE TABLE IF NOT EXISTS "batch_users_rows" (
  "id" BLOB NOT NULL,
  "first_name" TEXT,
  "last_name" TEXT,
  "gender" TEXT,
  "address" TEXT,
  "post_code" TEXT,
  "email" TEXT,
  "username" TEXT,
  "dob" INTEGER,
  "registered_date" INTEGER,
  "phone" TEXT,
  "picture" TEXT,
  "nationality" TEXT,
  "fetched_at" INTEGER NOT NULL,
  "rtp_digest" BLOB NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS "batch_users_key" ON "batch_users_rows" ("id");

CREATE VIEW IF NOT EXISTS "batch_users" AS SELECT
  nullif(lower(substr(hex("id"), 1, 8) || '-' || substr(hex("id"), 9, 4) || '-' || substr(hex("id"), 13, 4) || '-' || substr(hex("id"), 17, 4) || '-' || substr(hex("id"), 21, 12)), '----') AS "id",
  "first_name",
  "last_name",
  "gender",
  "address",
  "post_code",
  "email",
  "username",
  strftime('%Y-%m-%dT%H:%M:%fZ', "dob" / 1000.0, 'unixepoch') AS "dob",
  strftime('%Y-%m-%dT%H:%M:%fZ', "registered_date" / 1000.0, 'unixepoch') AS "registered_date",
  "phone",
  "picture",
  "nationality",
  strftime('%Y-%m-%dT%H:%M:%fZ', "fetched_at" / 1000.0, 'unixepoch') AS "fetched_at"
FROM "batch_users_rows";

CREATE TABLE IF NOT EXISTS "batch_users_history_rows" (
  "id" BLOB NOT NULL,
  "first_name" TEXT,
  "last_name" TEXT,
  "gender" TEXT,
  "address" TEXT,
  "post_code" TEXT,
  "email" TEXT,
  "username" TEXT,
  "dob" INTEGER,
  "registered_date" INTEGER,
  "phone" TEXT,
  "picture" TEXT,
  "nationality" TEXT,
  "fetched_at" INTEGER NOT NULL,
  "as_of" INTEGER NOT NULL,
  "rtp_digest" BLOB NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS "batch_users_history_key" ON "batch_users_history_rows" ("id", "as_of");

CREATE VIEW IF NOT EXISTS "batch_users_history" AS SELECT
  nullif(lower(substr(hex("id"), 1, 8) || '-' || substr(hex("id"), 9, 4) || '-' || substr(hex("id"), 13, 4) || '-' || substr(hex("id"), 17, 4) || '-' || substr(hex("id"), 21, 12)), '----') AS "id",
  "first_name",
  "last_name",
  "gender",
  "address",
  "post_code",
  "email",
  "username",
  strftime('%Y-%m-%dT%H:%M:%fZ', "dob" / 1000.0, 'unixepoch') AS "dob",
  strftime('%Y-%m-%dT%H:%M:%fZ', "registered_date" / 1000.0, 'unixepoch') AS "registered_date",
  "phone",
  "picture",
  "nationality",
  strftime('%Y-%m-%dT%H:%M:%fZ', "fetched_at" / 1000.0, 'unixepoch') AS "fetched_at",
  date("as_of" * 86400, 'unixepoch') AS "as_of"
FROM "batch_users_history_rows";
