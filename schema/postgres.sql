-- Derived from the dataset users by `rtp init --dry-run`; do not edit.

CREATE TABLE IF NOT EXISTS "batch_users" (
  "id" uuid NOT NULL,
  "first_name" text,
  "last_name" text,
  "gender" text,
  "address" text,
  "post_code" text,
  "email" text,
  "username" text,
  "dob" timestamp(3) with time zone,
  "registered_date" timestamp(3) with time zone,
  "phone" text,
  "picture" text,
  "nationality" text,
  "fetched_at" timestamp(3) with time zone NOT NULL,
  "rtp_digest" bytea NOT NULL,
  PRIMARY KEY ("id")
);

CREATE TABLE IF NOT EXISTS "batch_users_history" (
  "id" uuid NOT NULL,
  "first_name" text,
  "last_name" text,
  "gender" text,
  "address" text,
  "post_code" text,
  "email" text,
  "username" text,
  "dob" timestamp(3) with time zone,
  "registered_date" timestamp(3) with time zone,
  "phone" text,
  "picture" text,
  "nationality" text,
  "fetched_at" timestamp(3) with time zone NOT NULL,
  "as_of" date NOT NULL,
  "rtp_digest" bytea NOT NULL,
  PRIMARY KEY ("id", "as_of")
);
