"""The tables of the one database: what is decided, by whom, and who may decide.

Files of versions stay folders of the registry. Times are ISO texts in UTC, which sort as they follow each other.
A change of these tables needs a revision in `migrations/versions/`; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import JSON, Column, Float, Index, Integer, MetaData, Table, Text, UniqueConstraint

metadata = MetaData()

#: what each name of a model points to now; the canary has its share and the start of its trial, too
aliases = Table(
    "aliases",
    metadata,
    Column("model", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("share", Float),
    Column("started", Text),
)

#: every change of a model's aliases, and the entries after it
changes = Table(
    "changes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", Text, nullable=False),
    Column("time", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("aliases", JSON, nullable=False),
    Column("numbers", JSON(none_as_null=True)),
    Column("override", Text),  #: why a version that the gate did not pass was let through
    Index("changes_of_a_model", "model", "id"),
    sqlite_autoincrement=True,
)

#: what the gate, a canary's trial or an A/B test found of a version
decisions = Table(
    "decisions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("kind", Text, nullable=False),  #: gate | canary | ab_test
    Column("time", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("numbers", JSON, nullable=False),
    Index("decisions_of_a_version", "model", "version", "id"),
    sqlite_autoincrement=True,
)

#: the gate's ledger: who has asked a frozen test, and what of its budget is left
attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", Text, nullable=False),
    Column("test", Text, nullable=False),  #: hash of the frozen test
    Column("number", Integer, nullable=False),
    Column("time", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("identity", Text, nullable=False),  #: hash of all that made the candidate, but seeds
    Column("items", Integer, nullable=False),
    Column("asked", JSON, nullable=False),  #: ids of the items
    Column("level", Float, nullable=False),
    Column("left", Float, nullable=False),
    Column("outcome", Text, nullable=False),
    UniqueConstraint("model", "test", "number", name="one_attempt_a_number"),
    sqlite_autoincrement=True,
)

#: the split ledger: the runs of annotate that read and wrote it, in the order in which they did
split_runs = Table(
    "split_runs",
    metadata,
    Column("scope", Text, primary_key=True),  #: hash of all that makes a frozen test another one
    Column("number", Integer, primary_key=True),
    Column("interval", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),  #: of the annotate artifact
    UniqueConstraint("scope", "fingerprint", name="one_run_a_fingerprint"),
)

#: and the examples that each was the first to test, or to train or validate with
split_entries = Table(
    "split_entries",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("id", Text, primary_key=True),  #: of the example
    Column("wording", Text, nullable=False),
    Column("group", Text, nullable=False),
    Column("split", Text, nullable=False),  #: train | validation | test
    Column("compared", Text, nullable=False),  #: the text by which near twins are found
    Column("example", JSON(none_as_null=True)),  #: the fields of a tested one
    Column("documents", Text, nullable=False),  #: ids of the documents that it was made of, with spaces between
)

#: the persons whose rows are not collected again, as keyed hashes (`data.collect.forgotten`)
forgotten = Table(
    "forgotten",
    metadata,
    Column("scope", Text, primary_key=True),  #: row; kind and size of an identifier; or secret
    Column("hash", Text, primary_key=True),  #: of the scope `secret`: the key of all others
    Column("mark", Integer),  #: 16 bits of an identifier
)

#: erasures, by the numbers of their receipts
erasures = Table(
    "erasures",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("subject", Text, nullable=False),  #: keyed hash of the identifier
    Column("begun", Text, nullable=False),
    Column("ended", Text, nullable=False),  #: empty: it was interrupted, and nothing is made before it is finished
    Column("plan", JSON(none_as_null=True)),  #: what there is to do; none when it is done
    Column("receipt", JSON(none_as_null=True)),  #: what was done, without personal data
    sqlite_autoincrement=True,
)

#: canaries' trials and A/B tests, gone ones too
trials = Table(
    "trials",
    metadata,
    Column("model", Text, primary_key=True),
    Column("started", Text, primary_key=True),
    Column("kind", Text, nullable=False),  #: canary | ab_test
    Column("version", Text, nullable=False),
    Column("share", Float, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("ended", Text),
    Column("outcome", Text),  #: a verdict | promoted | stopped | over
)

#: what each replica of the app has counted in a trial so far
trial_counts = Table(
    "trial_counts",
    metadata,
    Column("model", Text, primary_key=True),
    Column("started", Text, primary_key=True),
    Column("replica", Text, primary_key=True),
    Column("counts", JSON, nullable=False),
    Column("updated", Text, nullable=False),
)

#: what was said of answers in a trial: the last word of each key about each request
trial_ratings = Table(
    "trial_ratings",
    metadata,
    Column("model", Text, primary_key=True),
    Column("started", Text, primary_key=True),
    Column("rating", Text, primary_key=True),  #: a digest of the request and the key that said it
    Column("side", Text, nullable=False),  #: canary | champion
    Column("caller", Text, nullable=False),  #: the group of callers that asked
    Column("up", Integer, nullable=False),
    Column("down", Integer, nullable=False),
    Column("corrected", Integer, nullable=False),
)

#: what is kept of API keys; the fields of `llmops.access.roles.Key`
keys = Table(
    "keys",
    metadata,
    Column("prefix", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("expires", Text, nullable=False),
    Column("revoked", Text, nullable=False),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("old_sha256", Text, nullable=False),
    Column("old_until", Text, nullable=False),
)

#: what was raised, and when it was over; of a rule and a subject at most one is open
alerts = Table(
    "alerts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("subject", Text, nullable=False),  #: what it is about
    Column("place", Text, nullable=False),  #: the machine that alone can judge it; empty: any
    Column("severity", Text, nullable=False),
    Column("finding", JSON, nullable=False),  #: message, numbers, and the window that they are of
    Column("raised", Text, nullable=False),
    Column("held", Text, nullable=False),  #: when it was last so
    Column("told", Text, nullable=False),  #: when receivers were told; empty: not, since it was silenced
    Column("resolved", Text, nullable=False),  #: empty: it is not over
    Index("alerts_that_are_open", "resolved", "rule", "subject"),
)

#: what each receiver of alerts has to be told, and whether it has been
alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("alert", Text, nullable=False),
    Column("receiver", Text, nullable=False),
    Column("document", JSON, nullable=False),
    Column("created", Text, nullable=False),
    Column("due", Text, nullable=False),  #: not before; while one sends it, no other does
    Column("tries", Integer, nullable=False),
    Column("error", Text, nullable=False),  #: of the last try
    Column("ended", Text, nullable=False),  #: empty: it waits
    Column("outcome", Text, nullable=False),  #: `waiting`, `sent` or `given_up`
    Index("alert_deliveries_that_wait", "ended", "due"),
)

#: for how long nobody is told of what
alert_silences = Table(
    "alert_silences",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("subject", Text, nullable=False),  #: empty: whatever it is about
    Column("reason", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("until", Text, nullable=False),
    sqlite_autoincrement=True,
)

#: when what runs by a schedule did so last
heartbeats = Table(
    "heartbeats",
    metadata,
    Column("name", Text, primary_key=True),
    Column("time", Text, nullable=False),
)

#: what users have said of answers that may train, and what was decided on it; texts have marks for personal data
reviews = Table(
    "reviews",
    metadata,
    Column("id", Text, primary_key=True),  #: of the event
    Column("kind", Text, nullable=False),  #: correction | answer (one that was found good)
    Column("time", Text, nullable=False),  #: of the event, as it has it
    Column("key", Text, nullable=False),  #: prefix of the key
    Column("role", Text, nullable=False),  #: of the key then
    Column("version", Text, nullable=False),  #: of the model, where it is known
    Column("question", Text, nullable=False),
    Column("context", Text, nullable=False),
    Column("answer", Text, nullable=False),  #: the model's
    Column("correction", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("state", Text, nullable=False),  #: waiting | accepted | refused | held | useless | forgotten
    Column("joined", Text, nullable=False),  #: the row that says the same, and is shown and trained on in its place
    Column("decided", Text, nullable=False),  #: when, as `time`; empty: not yet
    Column("by", Text, nullable=False),  #: `policy`, or who reviewed it
    Column("why", Text, nullable=False),
    Column("edited", Text, nullable=False),  #: the correction as a reviewer has it; empty: as it was said
    Index("reviews_by_state", "state", "decided"),
)

#: the hashes of files that rarely change, so that each is hashed once (`state.file_hashes`)
file_hashes = Table(
    "file_hashes",
    metadata,
    Column("file", Text, primary_key=True),  #: hash of its path
    Column("state", Text, nullable=False),  #: times, size and inode
    Column("sha256", Text, nullable=False),
)

#: who did what to which: a row for every change of the tables above, in the same transaction
audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("time", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("fields", JSON, nullable=False),
    Index("audit_by_time", "time"),
    sqlite_autoincrement=True,
)


def revision_table() -> Table:
    """Where Alembic keeps which revision a database has; not by its usual name, which another program may use."""
    return Table(REVISION, MetaData(), Column("version_num", sa.String(32), primary_key=True))


REVISION = "llmops_revision"
