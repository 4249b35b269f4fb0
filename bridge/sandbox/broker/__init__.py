"""A fake Kafka in memory, with the rules that the bridge relies on.

    link.py          requests on their way: lost, late, doubled; the power of the process that sends them
    cluster.py       the broker: topics, groups, what happens by itself
    transactions.py  who may write, what is open, what was decided
    log.py           records, markers, the last stable offset, compaction
    group.py         members and generations
    refusal.py       what a broker answers instead
    producer.py, inbox.py, reader.py
                     the bridge's ports over it: same seams, same contract tests as on a real Kafka (`tests/contract`)

What it leaves out is what the bridge does not use or cannot notice: leaders, replicas, wire formats, quotas, rights.
It knows no hanging transactions (a broker that forgets a decision); those are tested on the real one.
"""
