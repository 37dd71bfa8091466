"""The schema of a journal: private tables, and the public views over them.

The views are the stable interface (`flow_runs`, `task_runs`, `states`, `edges`, `logs`, `schedules`); the tables may
change with `VERSION`. One row holds one run with its whole history, because a short run makes all its transitions
within one group commit: so a group carries one row a run, and the views expand it again. Each value of a row costs the
writer time that it takes from the event loop, so what most runs don't have is NULL, and what can be derived the views
derive.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from .owners import CREATE as OWNERS

VERSION = 1
APPLICATION_ID = 0x756E6474  # "undt", so that `file` and we can tell a journal from any other database

Durability: TypeAlias = Literal["process", "power", "none"]
DURABILITIES = ("process", "power", "none")


def _iso(column: str) -> str:
    """SQL for an ISO-8601 UTC text, with microseconds, of an integer column of microseconds."""
    return f"strftime('%Y-%m-%dT%H:%M:%S', {column} / 1000000, 'unixepoch') || printf('.%06dZ', {column} % 1000000)"


TABLES = """
CREATE TABLE run (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    function TEXT NOT NULL,
    name TEXT,             -- NULL: the function's name and the end of the id
    parent_run_id TEXT,
    flow_run_id TEXT,      -- NULL: the parent; '': none
    tags TEXT,             -- NULL: none
    state_type TEXT NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    attempts INTEGER NOT NULL,
    history TEXT NOT NULL, -- [[type, name, message, microseconds], ...]
    owner INTEGER NOT NULL,
    details TEXT,          -- {version, map_index, parameters, cache_key, upstreams, expected_start_at, schedule,
                           --  nominal, call, error}
    step TEXT              -- in a durable flow: the id of the outermost run, '/', the digest of the call
) WITHOUT ROWID;

CREATE INDEX flow_run ON run (id) WHERE kind = 'flow';
CREATE INDEX outermost ON run (ended_at) WHERE parent_run_id IS NULL;
CREATE INDEX child ON run (parent_run_id) WHERE parent_run_id IS NOT NULL;
CREATE INDEX step ON run (step) WHERE step IS NOT NULL;

CREATE TABLE result (
    key TEXT PRIMARY KEY,
    value BLOB,
    file TEXT,             -- the name of a file in the folder beside the journal, for what is big
    serializer TEXT NOT NULL,
    run_id TEXT NOT NULL,
    kept_at INTEGER NOT NULL,
    expires_at INTEGER,
    about TEXT             -- of a step: {parent, call, inputs, source}
) WITHOUT ROWID;

CREATE INDEX result_file ON result (file) WHERE file IS NOT NULL;
CREATE INDEX result_expiry ON result (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    level TEXT NOT NULL,
    logger TEXT NOT NULL,
    message TEXT NOT NULL
);

CREATE TABLE slot (
    name TEXT NOT NULL,        -- of a limit that is shared between processes
    holder TEXT NOT NULL,
    slots REAL NOT NULL,
    owner INTEGER NOT NULL,
    PRIMARY KEY (name, holder)
) WITHOUT ROWID;

CREATE TABLE drain (
    name TEXT PRIMARY KEY,     -- of a rate limit that is shared
    taken REAL NOT NULL,
    seen REAL NOT NULL         -- when it was that much, in seconds since the epoch
) WITHOUT ROWID;

CREATE TABLE schedule (
    name TEXT PRIMARY KEY,
    flow TEXT NOT NULL,
    told TEXT NOT NULL,        -- {schedule, parameters, overlap, catch_up, grace}
    mark INTEGER NOT NULL,     -- all nominal times up to this one are decided
    paused_at INTEGER,
    owner INTEGER NOT NULL     -- who served it last
) WITHOUT ROWID;

CREATE TABLE fire (
    schedule TEXT NOT NULL,
    nominal INTEGER NOT NULL,  -- the time that it is for, in microseconds
    run_id TEXT NOT NULL,
    owner INTEGER,             -- who runs it; NULL: nobody has taken it yet, or who had died before it began
    asked_at INTEGER,          -- when a person asked for it; NULL: it is one of the schedule's own times
    PRIMARY KEY (schedule, nominal)
) WITHOUT ROWID;

CREATE INDEX fire_free ON fire (schedule, nominal) WHERE owner IS NULL;

CREATE INDEX log_of_run ON log (run_id);

CREATE TABLE synced (one INTEGER PRIMARY KEY CHECK (one = 1), at INTEGER NOT NULL);
"""

_NAME = "coalesce(name, function || '-' || substr(id, -4)) AS name"
_LAST = "json_extract(history, '$[#-1][{}]')"
_STATE = f"state_type, {_LAST.format(1)} AS state_name, {_LAST.format(2)} AS state_message"
_CREATED = f"""{_iso("json_extract(history, '$[0][3]')")} AS created_at"""
_TIMES = f"""{_iso("started_at")} AS started_at, {_iso("ended_at")} AS ended_at"""
_TAGS = "coalesce(tags, '[]') AS tags"


def _detail(name: str) -> str:
    return f"json_extract(details, '$.{name}')"


VIEWS = f"""
CREATE VIEW flow_runs AS
SELECT id, {_NAME}, function AS flow, {_detail("version")} AS version, {_STATE}, parent_run_id, attempts,
       {_detail("parameters")} AS parameters, {_TAGS}, {_CREATED},
       {_iso(f"coalesce({_detail('expected_start_at')}, {_detail('nominal')})")} AS expected_start_at, {_TIMES},
       (SELECT host || ':' || pid FROM owner WHERE owner.id = run.owner) AS owner
FROM run WHERE kind = 'flow';

CREATE VIEW task_runs AS
SELECT id, {_NAME}, function AS task, nullif(coalesce(flow_run_id, parent_run_id), '') AS flow_run_id, parent_run_id,
       {_detail("map_index")} AS map_index, {_STATE}, attempts, {_TAGS}, {_detail("cache_key")} AS cache_key,
       {_CREATED}, {_TIMES}
FROM run WHERE kind = 'task';

CREATE VIEW states AS
SELECT run.id AS run_id, entry.key + 1 AS seq, json_extract(entry.value, '$[0]') AS type,
       json_extract(entry.value, '$[1]') AS name, json_extract(entry.value, '$[2]') AS message,
       {_iso("json_extract(entry.value, '$[3]')")} AS at
FROM run, json_each(run.history) AS entry;

CREATE VIEW edges AS
SELECT upstream.value AS upstream_id, run.id AS downstream_id
FROM run, json_each(run.details, '$.upstreams') AS upstream;

CREATE VIEW logs AS
SELECT run_id, {_iso("at")} AS at, level, logger, message FROM log ORDER BY seq;

CREATE VIEW schedules AS
SELECT name, flow, json_extract(told, '$.schedule') AS schedule, json_extract(told, '$.parameters') AS parameters,
       json_extract(told, '$.overlap') AS overlap, json_extract(told, '$.catch_up') AS catch_up,
       {_iso("mark")} AS decided_until, {_iso("paused_at")} AS paused_at,
       (SELECT host || ':' || pid FROM owner WHERE owner.id = schedule.owner AND closed_at IS NULL) AS owner
FROM schedule;
"""

SCHEMA = f"""
BEGIN IMMEDIATE;
{OWNERS}
{TABLES}
{VIEWS}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
COMMIT;
"""
