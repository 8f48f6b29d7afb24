"""Who is told of alerts: the log, the events, and whom the configuration names."""
