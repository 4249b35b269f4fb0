"""What `bridge.sandbox.simulate` is made of.

plan.py     what a seed decides beforehand      story.py   what happened, for whoever has to find out why
town.py     providers, broker, processes; fate  process.py one process: the real runtime over fake ports
truth.py    what was true at the providers      check.py   what must hold in the end
"""
