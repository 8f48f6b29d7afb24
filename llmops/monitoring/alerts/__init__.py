"""Alerts: rules are checked, a broken rule raises one alert, and receivers are notified at least once."""
