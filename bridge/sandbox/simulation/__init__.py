"""What `bridge.sandbox.simulate` is made of.

plan.py        what a seed decides beforehand       town.py      providers, broker, processes; calm and reckoning
happenings.py  what befalls processes and broker    provider.py  ... and the providers
signals.py     what people ask of the bridge        process.py   one process: the real runtime ...
ports.py       ... over fake ports                  truth.py     what was true at the providers
told.py        what the bridge has published        check.py     what must hold in the end ...
memberships.py ... of edges (tag, customer)         promises.py  ... of outcomes, pauses, held deletions, progress
vendors.py     what differs between the providers   orders.py    commands that services send; who wrote what
obedience.py   what must hold of commands, of mirrors and of merges
story.py       what happened, for whoever has to find out why
"""
