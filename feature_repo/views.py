"""Feature views."""

from datetime import timedelta

from entities import example
from feast import FeatureView, Field
from feast.types import Array, Int32, String
from sources import training_tokens

llm_training_features = FeatureView(
    name="llm_training_features",
    entities=[example],
    ttl=timedelta(0),  # an example never expires; a later interval rewrites it
    schema=[
        Field(name="input_id", dtype=String, description="The entity's key."),
        Field(name="token_ids", dtype=Array(Int32), description="Prompt, answer and what ends it."),
        Field(name="attention_mask", dtype=Array(Int32), description="1 for each token: examples are stored unpadded."),
        Field(name="meta", dtype=String, description="JSON: split, source, group, prompt_tokens."),
    ],
    source=training_tokens,
    online=True,
    description="What the model is trained on, token by token.",
)
