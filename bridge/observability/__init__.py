"""What the outside may see of a running bridge: metrics, logs, probes and the status page.

Whatever comes in from elsewhere is bounded and made harmless here: labels by allow-list (`metrics`), log
lines by escaping, cutting and redaction (`redact`, `logs`), HTML by escaping (`status`).
"""
