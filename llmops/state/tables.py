"""The tables of the database: decisions, who made them, and who may make them.

Files of versions are in the registry's folders. Times are ISO texts in UTC, so that they sort by time. A change of
these tables needs a revision in `migrations/versions/`; a test compares the two.
"""

from sqlalchemy import JSON, BigInteger, Column, Float, Index, Integer, MetaData, Table, Text, UniqueConstraint

metadata = MetaData()

#: the current version of each alias of a model; the canary has its share and the start of its trial, too
aliases = Table(
    "aliases",
    metadata,
    Column("model", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("share", Float),
    Column("started", Text),
)

#: every change of a model's aliases, with the aliases after it
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
    Column("override", Text),  #: reason for using a version that the gate did not pass
    Index("changes_of_a_model", "model", "id"),
    sqlite_autoincrement=True,
)

#: results of the gate, of canaries and of A/B tests
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

#: the gate's ledger: uses of a frozen test, and the rest of its error budget
attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", Text, nullable=False),
    Column("test", Text, nullable=False),  #: hash of the frozen test
    Column("number", Integer, nullable=False),
    Column("time", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("identity", Text, nullable=False),  #: hash of the candidate's ingredients except seeds
    Column("items", Integer, nullable=False),
    Column("asked", JSON, nullable=False),  #: ids of the items
    Column("level", Float, nullable=False),
    Column("left", Float, nullable=False),
    Column("outcome", Text, nullable=False),
    UniqueConstraint("model", "test", "number", name="one_attempt_a_number"),
    sqlite_autoincrement=True,
)

#: the split ledger: runs of annotate, in the order in which they read and wrote it
split_runs = Table(
    "split_runs",
    metadata,
    Column("scope", Text, primary_key=True),  #: hash of all settings that define a frozen test
    Column("number", Integer, primary_key=True),
    Column("interval", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),  #: of the annotate artifact
    UniqueConstraint("scope", "fingerprint", name="one_run_a_fingerprint"),
)

#: the split ledger: examples with the run that first tested, trained or validated with them
split_entries = Table(
    "split_entries",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("id", Text, primary_key=True),  #: of the example
    Column("wording", Text, nullable=False),
    Column("group", Text, nullable=False),
    Column("split", Text, nullable=False),  #: train | validation | test
    Column("compared", Text, nullable=False),  #: text for finding near duplicates
    Column("example", JSON(none_as_null=True)),  #: all fields, of a test example
    Column("documents", Text, nullable=False),  #: ids of its documents, separated by spaces
)

#: keyed hashes of forgotten persons, whose rows are not collected again (`data.collect.forgotten_list`)
forgotten = Table(
    "forgotten",
    metadata,
    Column("scope", Text, primary_key=True),  #: row; kind and size of an identifier; or `secret`
    Column("hash", Text, primary_key=True),  #: in scope `secret`: the key of the other hashes
    Column("mark", Integer),  #: 16 bits of an identifier
)

#: erasures, by receipt number
erasures = Table(
    "erasures",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("subject", Text, nullable=False),  #: keyed hash of the identifier
    Column("begun", Text, nullable=False),
    Column("ended", Text, nullable=False),  #: empty: interrupted; no artifact may be made until it is finished
    Column("plan", JSON(none_as_null=True)),  #: remaining work; null when done
    Column("receipt", JSON(none_as_null=True)),  #: result, without personal data
    sqlite_autoincrement=True,
)

#: canaries and A/B tests, including ended ones
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

#: counts of each replica of the app in a trial
trial_counts = Table(
    "trial_counts",
    metadata,
    Column("model", Text, primary_key=True),
    Column("started", Text, primary_key=True),
    Column("replica", Text, primary_key=True),
    Column("counts", JSON, nullable=False),
    Column("updated", Text, nullable=False),
)

#: ratings in a trial: the last one of each key for each request
trial_ratings = Table(
    "trial_ratings",
    metadata,
    Column("model", Text, primary_key=True),
    Column("started", Text, primary_key=True),
    Column("rating", Text, primary_key=True),  #: digest of request and key
    Column("side", Text, nullable=False),  #: canary | champion
    Column("caller", Text, nullable=False),  #: group of callers
    Column("up", Integer, nullable=False),
    Column("down", Integer, nullable=False),
    Column("corrected", Integer, nullable=False),
)

#: stored API keys, with the fields of `llmops.access.roles.Key`
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
    Column("tokens_per_month", BigInteger),
)

#: what each key has used, added up over all processes; see `llmops.access.usage`
usage = Table(
    "usage",
    metadata,
    Column("key", Text, primary_key=True),  #: prefix
    Column("day", Text, primary_key=True),  #: UTC, of the request's arrival
    Column("model", Text, primary_key=True),  #: with its version, as in the answer
    Column("requests", BigInteger, nullable=False),  #: answered ones
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
)

#: raised and resolved alerts; at most one is open per rule and subject
alerts = Table(
    "alerts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("subject", Text, nullable=False),  #: what it is about
    Column("place", Text, nullable=False),  #: the only machine that can judge it; empty: any
    Column("severity", Text, nullable=False),
    Column("finding", JSON, nullable=False),  #: message, numbers and their window
    Column("raised", Text, nullable=False),
    Column("held", Text, nullable=False),  #: last time it was true
    Column("told", Text, nullable=False),  #: when receivers were notified; empty: silenced
    Column("resolved", Text, nullable=False),  #: empty: still open
    Index("alerts_that_are_open", "resolved", "rule", "subject"),
)

#: messages to receivers of alerts, and their delivery
alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("alert", Text, nullable=False),
    Column("receiver", Text, nullable=False),
    Column("document", JSON, nullable=False),
    Column("created", Text, nullable=False),
    Column("due", Text, nullable=False),  #: earliest time of the next try; in the future while one process sends it
    Column("tries", Integer, nullable=False),
    Column("error", Text, nullable=False),  #: of the last try
    Column("ended", Text, nullable=False),  #: empty: waiting
    Column("outcome", Text, nullable=False),  #: `waiting`, `sent` or `given_up`
    Index("alert_deliveries_that_wait", "ended", "due"),
)

#: rules and subjects about which nobody is notified, and until when
alert_silences = Table(
    "alert_silences",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("subject", Text, nullable=False),  #: empty: any
    Column("reason", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("until", Text, nullable=False),
    sqlite_autoincrement=True,
)

#: last run of each scheduled job
heartbeats = Table("heartbeats", metadata, Column("name", Text, primary_key=True), Column("time", Text, nullable=False))

#: feedback that may train, and the decision on it; personal data in texts is replaced by marks
reviews = Table(
    "reviews",
    metadata,
    Column("id", Text, primary_key=True),  #: of the event
    Column("kind", Text, nullable=False),  #: correction | answer (rated as good)
    Column("time", Text, nullable=False),  #: of the event
    Column("key", Text, nullable=False),  #: prefix of the key
    Column("role", Text, nullable=False),  #: of the key at that time
    Column("version", Text, nullable=False),  #: of the model, if known
    Column("question", Text, nullable=False),
    Column("context", Text, nullable=False),
    Column("answer", Text, nullable=False),  #: the model's
    Column("correction", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("state", Text, nullable=False),  #: waiting | accepted | refused | useless | forgotten
    Column("joined", Text, nullable=False),  #: row that says the same and represents this one
    Column("decided", Text, nullable=False),  #: time of the decision; empty: none yet
    Column("by", Text, nullable=False),  #: `policy`, or the reviewer
    Column("why", Text, nullable=False),
    Column("edited", Text, nullable=False),  #: the reviewer's version of the correction; empty: unchanged
    Index("reviews_by_state", "state", "decided"),
)

#: cached hashes of files (`state.file_hashes`)
file_hashes = Table(
    "file_hashes",
    metadata,
    Column("file", Text, primary_key=True),  #: hash of its path
    Column("state", Text, nullable=False),  #: times, size and inode
    Column("sha256", Text, nullable=False),
)

#: audit: a row for every change of the tables above, in the same transaction
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

REVISION = "llmops_revision"  #: Alembic's table of the database's revision; another program may use its usual name
