"""`python -m llmops …` is `llmops …`."""

from llmops.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
