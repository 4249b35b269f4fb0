"""What `bridge.sandbox.simulate` is made of.

plan.py        what a seed decides beforehand       town.py     providers, broker, processes; calm and reckoning
happenings.py  what befalls them                    process.py  one process: the real runtime ...
ports.py       ... over fake ports                  truth.py    what was true at the providers
check.py       what must hold in the end            story.py    what happened, for whoever has to find out why
"""
