"""Alerts: rules are judged, a broken rule raises one alert, and receivers are notified at least once."""
