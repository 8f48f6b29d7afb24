"""The entry point of `python -m llmops …`, which equals `llmops …`."""

from llmops.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
