"""Memberships: which customers got or lost a tag.

For a provider whose customers say which tags they have, every page of customers tells it (`runtime.step`):

told.py ....... how far that is proved

For a provider whose customers do not, the tags are asked for their members:

loop.py ....... one task per source: what to ask next, and what the answer means
bulletin.py ... what the readings of customers and tags tell it
rounds.py ..... when the members of which tag are to be read, or only counted; pure
freshness.py .. how late a change can be found at most; pure
reading.py .... the members of a tag, page after page, until it is known who has it and who has lost it
roll.py ....... what one such reading has seen so far; pure
asking.py ..... customers' own tags
strip.py ...... a tag that is gone loses its members before its deletion is told
"""
