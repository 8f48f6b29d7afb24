"""Alerts: rules are judged, each finding is raised once and resolved once, and receivers are notified at least once."""
