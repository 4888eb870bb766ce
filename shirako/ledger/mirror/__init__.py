"""A mirror of a ledger in an LDAP directory, from which the ledger is made anew when it is lost.

What is committed is mirrored in order, and never ahead of the ledger: only what it has durably
done is told to the mirror. A thread of its own writes it; a directory that is slow or away makes
the mirror late, and nothing else.

**Every moment is one state.** The directory has no transactions. So what is going to be changed is
put into a journal, the head is moved to the next state, and only then are the records changed. Who
reads applies the journal of the head, or what may be left of it to do; so what is read is always
one committed state, whole, also when the writer died at any point (`writing`, `reading`).

**It knows where it is.** The head says what the ledger's records and log add up to (`Total`), as
the ledger itself counts it. A mirror whose head is that of the ledger goes on from there; any
other, after an outage that was too long or an end in haste, is compared with a snapshot of the
ledger while the actor works on. The same sums tell a reader whether anything is missing or changed.

**One writes.** The head is moved only from the value that was read. A copy of the actor that does
not hold the ledger writes nothing.

What is not mirrored is the log: the head names its last link, and a ledger that is made from a
mirror begins a new log which cites that. And a mirror is as late as its last batch: who rebuilds
from it gets a past state, and has to treat it as any restored backup.

Modules: `ledger` what the actor sees; `following` the thread; `writing`, `reading`, `entries` what
is in the directory; `directory` the connection, `place` where it leads. `shirako.schema` is for
the server.
"""
