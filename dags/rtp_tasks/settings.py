"""Reads the settings, which are environment variables; docs/airflow.md lists them."""

from __future__ import annotations

import os

#: What is passed on to containers and pods: what may be shown, and what must not be.
ADDRESSES = ["RTP_API_URL", "RTP_DATASET", "RTP_EVENT_LOG", "RTP_REALTIME_STORE", "RTP_BATCH_STORE"]
SECRETS = [f"RTP_{server}_PASSWORD{kind}" for server in ("KAFKA", "CASSANDRA", "POSTGRES") for kind in ("", "_FILE")]


def setting(name, default, allowed=None):
    value = os.environ.get(name) or default
    if allowed and value not in allowed:
        raise ValueError(f"invalid {name} `{value}`; supported: {', '.join(allowed)}")
    return value


def number(name, default):
    text = setting(name, str(default))
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"invalid {name} `{text}`; expected a number") from None


def required(name):
    if not os.environ.get(name):
        raise ValueError(f"{name} is not set, but the runner needs it")
    return os.environ[name]


def names(name, default=""):
    """A setting that is a comma-separated list."""
    return [one.strip() for one in setting(name, default).split(",") if one.strip()]


def present(variables):
    """The given environment variables, as far as they are set."""
    return {name: os.environ[name] for name in variables if name in os.environ}
