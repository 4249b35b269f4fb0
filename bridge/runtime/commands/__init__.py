"""Commands that need the provider: accepted out of the inbox, executed behind it, answered once."""
