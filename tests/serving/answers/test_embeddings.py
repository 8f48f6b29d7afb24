"""Vectors, as clients ask for them, unchanged."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

TEXTS = ["How do I return an item?", "Can I send something back?", "Python is a language."]
NAME = "all-MiniLM-L6-v2"


def check_vectors(vectors: Any) -> None:
    """Three texts' vectors: each one long, the first two near each other."""
    found = np.array(vectors, np.float32)
    assert found.shape == (3, 384)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found[0] @ found[1] > 0.5 > abs(found[0] @ found[2])


def test_openais_client_gets_vectors(client: openai.OpenAI) -> None:
    for more in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 384, "user": "x"}):
        answer = client.embeddings.create(model=NAME, input=TEXTS, **more)  # type: ignore[arg-type]
        rows = [row.embedding for row in answer.data]
        if more.get("encoding_format") == "base64":  # who asks for it gets it
            rows = [np.frombuffer(base64.b64decode(row), "<f4").tolist() for row in rows]  # type: ignore[arg-type]
        check_vectors(rows)
        assert answer.model == NAME and answer.usage.prompt_tokens == answer.usage.total_tokens == 24
    with pytest.raises(openai.BadRequestError, match="input.1 has 1280 characters"):
        client.embeddings.create(model=NAME, input=["x", "word " * 256])
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="text-embedding-3-small", input=TEXTS)


def test_langchain_gets_vectors(served: dict[str, str]) -> None:
    given: Any = {**served, "model": NAME, "max_retries": 0}
    model = OpenAIEmbeddings(**given, check_embedding_ctx_length=False)
    check_vectors(model.embed_documents(TEXTS))
    assert np.allclose(model.embed_query(TEXTS[0]), model.embed_documents(TEXTS[:1])[0], atol=1e-5)


def test_token_ids_of_another_tokenizer_are_refused_with_what_to_do(client: openai.OpenAI) -> None:
    """What LangChain sends by default; its own tokenizer would have to be downloaded here."""
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model=NAME, input=[[9906, 11, 1917]])


def test_litellm_gets_vectors(served: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch one when imported
    import litellm

    common = {"model": f"openai/{NAME}", "api_base": served["base_url"], "api_key": served["api_key"]}
    answer = litellm.embedding(input=TEXTS, max_retries=0, **common)
    check_vectors([row["embedding"] for row in answer.data])
    assert answer.usage.prompt_tokens == 24
    with pytest.raises(litellm.BadRequestError, match="empty"):
        litellm.embedding(input=[""], max_retries=0, **common)
