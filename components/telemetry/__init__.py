"""What a run tells a monitoring system: metrics for Prometheus, log lines as JSON. Both are off by default."""
