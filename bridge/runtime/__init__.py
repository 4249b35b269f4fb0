"""Runtime: the only folder that decides: what is read when, what is retried, what is restarted, what stops."""
