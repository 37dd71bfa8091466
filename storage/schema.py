"""The schema of a journal: private tables, and the public views over them.

The views are the stable interface (`flow_runs`, `task_runs`, `states`, `edges`, `logs`); the tables may change with
`VERSION`. One row holds one run with its whole history, because a short run makes all its transitions within one
group commit: so a group carries one row a run, and the views expand it again.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

VERSION = 1
APPLICATION_ID = 0x756E6474  # "undt", so that `file` and we can tell a journal from any other database

Durability: TypeAlias = Literal["process", "power", "none"]
DURABILITIES = ("process", "power", "none")


def _iso(column: str) -> str:
    """SQL for an ISO-8601 UTC text, with microseconds, of an integer column of microseconds."""
    return (
        f"strftime('%Y-%m-%dT%H:%M:%S', {column} / 1000000, 'unixepoch') "
        f"|| printf('.%06dZ', {column} % 1000000)"
    )


TABLES = """
CREATE TABLE run (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    function TEXT NOT NULL,
    version TEXT,
    parent_run_id TEXT,
    flow_run_id TEXT,
    map_index INTEGER,
    tags TEXT NOT NULL,
    parameters TEXT,
    cache_key TEXT,
    upstreams TEXT,
    owner TEXT,
    expected_start_at INTEGER,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    attempts INTEGER NOT NULL,
    state_type TEXT NOT NULL,
    state_name TEXT NOT NULL,
    state_message TEXT NOT NULL,
    error TEXT,
    history TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX flow_run ON run (id) WHERE kind = 'flow';

CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    level TEXT NOT NULL,
    logger TEXT NOT NULL,
    message TEXT NOT NULL
);

CREATE INDEX log_of_run ON log (run_id);

CREATE TABLE synced (one INTEGER PRIMARY KEY CHECK (one = 1), at INTEGER NOT NULL);
"""

VIEWS = f"""
CREATE VIEW flow_runs AS
SELECT id, name, function AS flow, version, state_type, state_name, state_message, parent_run_id, attempts,
       parameters, tags, {_iso("created_at")} AS created_at, {_iso("expected_start_at")} AS expected_start_at,
       {_iso("started_at")} AS started_at, {_iso("ended_at")} AS ended_at, owner
FROM run WHERE kind = 'flow';

CREATE VIEW task_runs AS
SELECT id, name, function AS task, flow_run_id, parent_run_id, map_index, state_type, state_name, state_message,
       attempts, tags, cache_key, {_iso("created_at")} AS created_at, {_iso("started_at")} AS started_at,
       {_iso("ended_at")} AS ended_at
FROM run WHERE kind = 'task';

CREATE VIEW states AS
SELECT run.id AS run_id, entry.key + 1 AS seq, json_extract(entry.value, '$[0]') AS type,
       json_extract(entry.value, '$[1]') AS name, json_extract(entry.value, '$[2]') AS message,
       {_iso("json_extract(entry.value, '$[3]')")} AS at
FROM run, json_each(run.history) AS entry;

CREATE VIEW edges AS
SELECT upstream.value AS upstream_id, run.id AS downstream_id FROM run, json_each(run.upstreams) AS upstream;

CREATE VIEW logs AS
SELECT run_id, {_iso("at")} AS at, level, logger, message FROM log ORDER BY seq;
"""

SCHEMA = f"""
BEGIN IMMEDIATE;
{TABLES}
{VIEWS}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
COMMIT;
"""
