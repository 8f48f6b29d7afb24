"""The command lines of the README, docs/ and the DAGs' pages: which are run by these tests, and why others are not.

A command of `llmops` that is in no list is parsed in each of its forms; another fails `tests/test_commands.py` until it
is in one of them.
"""

#: Makes the home that all others work on.
FIRST = ".venv/bin/llmops run all --config examples/support_bot/config.yaml"

#: Run until the tests of `test_front_door.py` have ended.
AIRFLOW, SERVE = "llmops airflow --config examples/faq/config.yaml standalone", "llmops serve"

#: Run in this order on a real home, with Airflow and the serving app running.
RUN = [
    "llmops status",
    "llmops status --verify",
    "llmops gc --dry-run",
    "llmops gc",
    "llmops keys create --role user",
    "llmops keys create --role user --owner you",
    "llmops keys create --role user --owner shop --days 90 --requests-per-minute 300 --tokens-per-minute 100000",
    "llmops keys list",
    "llmops events",
    "llmops alerts list",
    "llmops airflow dags list",
    "llmops keys rotate 1a2b3c4d --hours 24",
    "llmops keys revoke 1a2b3c4d",
    "llmops models promote v3",
    "llmops models list",
    'curl -H "X-API-Key: $KEY" -H "Content-Type: application/json" '
    '-d \'{"prompt": "How long does delivery take?", "max_new_tokens": 150}\' http://127.0.0.1:8000/generate',
    "llmops models rollback",
    "llmops models canary v3 --share 0.1",
    "llmops models canary",
    "llmops models canary --conclude",
    "llmops models canary --stop",
    "llmops models ab v3",
    "llmops models ab --conclude",
    "llmops models ab v3 --share 0.5",
    "llmops models ab --conclude --promote",
    "llmops data forget anna.lind@example.com --dry-run",
    "llmops trigger --set epochs=2 --wait",
    "llmops trigger llmops_pipeline --set epochs=3 --set trials=10",
    "llmops trigger llmops_canary --set version=v3 --set share=0.1 --set minutes=60",
    "llmops trigger llmops_ab_test --set version=v3 --set share=0.5 --set minutes=10080",
    "llmops trigger llmops_batch --set input=/data/in.parquet --set output=/data/out.parquet",
    "llmops airflow backfill create --dag-id llmops_pipeline --from-date 2026-01-30 --to-date 2026-01-31",
    "llmops airflow dags pause llm_continuous_improvement",
    'llmops airflow pools set llmops_compute 1 "Tasks that need the accelerator or all cores"',
]

DOCKER, CLUSTER = "needs Docker and networks to fetch images from", "needs a cluster"
#: What a word in capitals stands for, where only certain words are understood.
MEANT = {"STAGE": "collect", "GIB": "24", "ROLE": "user", "RULE": "latency_p95"}
#: Forms that name a command and are none.
NAMED = (["run"], ["models"], ["data", "forget"], ["alerts", "silence"], ["alerts", "unsilence"], ["events", "forget"])

SERVING_DOCS = "tests/serving/test_docs.py runs it"
WRITES = "writes into the checkout; the test of that name checks what is written"
VLLM = "installs gigabytes into an environment of its own"

#: Only checked for their grammar: the beginning of the command → why it is not run.
PARSED = {
    "make demo": "leaves everything running; what it starts is started by these tests",
    "make test": "runs these tests",
    "make setup": "installs gigabytes; tests/test_makefile.py runs its choice of Python",
    "make stop": "ends what a developer has running; tests/pipeline/test_stack.py stops services",
    "make bench": "takes an hour; tests/benchmarks does a part of it",
    "make gpu-check": "needs a GPU; without one it says so",
    "make pipeline": "trains for minutes; tests/e2e runs the pipeline in Airflow",
    "make clean": "deletes the home",
    "make help": "prints a list",
    "python tests/test_pages.py": WRITES,
    "python tests/data/test_bad_input.py": WRITES,
    "python tests/monitoring/elk/test_files.py": WRITES,
    "python tests/events/test_fields_table.py": WRITES,
    "python benchmarks/drift.py": "takes minutes; tests/benchmarks runs its parts",
    "python benchmarks/run_all.py --full NAME": "stands for each of the benchmarks; tests/benchmarks runs them",
    "10 0 * * * cd /srv/llmops": "a line of a crontab; tests/e2e/test_pipeline.py runs it as cron does",
    "CRON_TZ=UTC": "a line of a crontab",
    "otelcol-contrib ": "the collector of the tests has no exporters for clouds; tests/docker/test_otel.py",
    "docker ": DOCKER,
    "make secrets": "writes .env into the checkout; tests/frame/test_compose.py",
    "make up": DOCKER,
    "make down": DOCKER,
    "kubectl ": CLUSTER,
    ". .venv/bin/activate && export LLMOPS_CONFIG=": "sets the variables of a shell, which these tests set themselves",
    "uv pip compile": "the whole line stands in the files that it writes; it asks a package index",
    "curl -s": SERVING_DOCS,
    "id=$(curl -s": SERVING_DOCS,
    'curl -H "X-API-Key: $KEY" -H "Content-Type: application/json" -d \'{"text"': "needs a classifier",
    "llmops serve --config examples/intents": "serves until it is stopped; the other `serve` is run",
    "python3.11 -m venv .venv-vllm": VLLM,
    ".venv-vllm/bin/pip ": VLLM,
    "pip install bitsandbytes": VLLM,
}
