"""Rebilly's API over a `bridge.sandbox.world.World`: what its endpoints accept, what they answer, what they do later.

`bridge.sandbox.rebilly.api` is the door; `documents` and `switches` are of use to checkers and tests too.
"""
