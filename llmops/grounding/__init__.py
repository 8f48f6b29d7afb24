"""Answers that rest on what the documents say: what is found of a question, as a model is told it."""
