"""An end-to-end LLMOps platform: collect, clean, fine-tune, check, release, serve and watch a language model."""

__version__ = "0.1.0"
