"""Feature services: the sets of features that a consumer asks for by name."""

from feast import FeatureService
from views import llm_training_features

llm_training = FeatureService(
    name="llm_training",
    features=[llm_training_features],
    description="Training offline, and serving by `input_id` online.",
)
