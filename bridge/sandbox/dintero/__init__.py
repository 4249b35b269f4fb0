"""Dintero's endpoints over a `bridge.sandbox.world.World`: what they accept, what they answer.

`bridge.sandbox.api` is the door; nobody else needs to look in here.
"""
