"""The queries of signed URLs are in no log and no error."""

import logging
import traceback

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status

from llmops.model.base import weights
from llmops.model.base.catalog import read_catalogue
from llmops.scans.signed_urls import remove_queries

SIGNED = "https://cdn.hub.test/repos/ab/model.safetensors?X-Amz-Signature=s3cr3t&Policy=p0l1cy"


@pytest.mark.parametrize("around", ["{}", "'{}'", '"{}".', "at <{}> it says", "Url: {}\nnext"])
def test_a_query_is_taken_out_and_nothing_else(around: str) -> None:
    cleaned = remove_queries(around.format(SIGNED))
    assert "s3cr3t" not in cleaned and "p0l1cy" not in cleaned
    assert cleaned.rstrip(".") == around.format(SIGNED.partition("?")[0]).rstrip(".")
    assert remove_queries("Who pays? See https://hub.test/a#b?") == "Who pays? See https://hub.test/a#b?"


def test_a_refusal_tells_no_signature(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")

    def refused(*_: object, **__: object) -> str:
        logging.getLogger("httpx2").info('HTTP Request: %s %s "%s"', "GET", httpx2.URL(SIGNED), "403 Forbidden")
        hf_raise_for_status(httpx2.Response(403, request=httpx2.Request("GET", SIGNED)))
        raise AssertionError

    monkeypatch.setattr(weights, "snapshot_download", refused)
    with pytest.raises(HfHubHTTPError, match="403") as error:
        weights.download(read_catalogue()[0], "")
    logged = "".join(traceback.format_exception(error.value)) + caplog.text
    assert (
        "model.safetensors" in logged
        and "403 Forbidden" in logged
        and "s3cr3t" not in logged
        and "p0l1cy" not in logged
    )
