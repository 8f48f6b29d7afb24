"""Feature services: named sets of features for a consumer."""

from feast import FeatureService
from views import llm_training_features

llm_training = FeatureService(
    name="llm_training",
    features=[llm_training_features[["meta"]]],
    description="Offline: which examples there were at a time. Their arrays come from the artifact's Parquet file.",
)

llm_serving = FeatureService(
    name="llm_serving",
    features=[llm_training_features[["token_ids", "meta"]]],
    description="Online: tokens by `input_id`. Each published version gets one like it, e.g. support_bot_v1.",
)
