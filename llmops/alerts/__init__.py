"""Alerts: rules are judged, what they find is raised once and resolved once, and receivers are told at least once."""
