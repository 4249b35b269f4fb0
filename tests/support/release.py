"""Another release: the real command line, whose mapping makes something more of every customer.

    RELEASE=2 python -m tests.support.release plan -c bridge.toml

The number of the projection is that of the release. With `RELEASE=1` nothing is changed.
"""

from __future__ import annotations

import os

from bridge.cli import main
from bridge.model import Document, Gone, Reject
from bridge.source.dintero import models, rows
from bridge.store import record

VARIABLE = "RELEASE"


def become(release: int) -> None:
    """From now on, for good."""
    mapping = models.customer

    def mapped(row: object, endpoint: str) -> Document | Gone | Reject:
        found = mapping(row, endpoint)
        if not isinstance(found, Document):
            return found
        return found._replace(body={**found.body, "extra": {**found.body.get("extra", {}), "release": release}})

    vars(models)["customer"] = mapped
    vars(record)["ESSENCE"] = release
    vars(rows)["_RELEASE"] = str(release).encode()


if __name__ == "__main__":
    number = int(os.environ.get(VARIABLE, "1"))
    if number > 1:
        become(number)
    main()
