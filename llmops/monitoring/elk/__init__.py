"""Elasticsearch and Kibana, set up for our events by one command: `llmops elk setup`."""
