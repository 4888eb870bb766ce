"""A ledger in PostgreSQL: one schema an actor, a standby for each, and only ever one that acts.

Several processes may be started for one actor. At each moment at most one of them, the *holder*,
commits, answers people and peers, or starts handlers. The others refuse to open the ledger, or
wait as *standbys*. Three things see to that, each for what the one before can not do.

**The lock.** A session that uses a ledger holds its advisory lock. The server frees it when the
session ends: at once when the holder's process dies, and when the holder was not heard of for its
hold (below), because it is stopped, or its machine or its network is gone. It says who may try,
no more: a holder finds out late that it lost its session.

**The generation.** One row, the `fence`, holds a number that each new holder increments before it
does anything else. Every commit is one statement, which checks and locks that row. So nothing of
an earlier generation is committed, however late it arrives: a commit that waits for a disk or in
a network when another one takes over finds no row to work with.

**The hold.** Answers from memory involve no commit. So a holder asks the server a few times in
each hold (`HOLD_SECONDS`) whether its generation is still the last; a commit asks too. It may act
until one hold after it *asked* what the server confirmed, counted by a clock that goes on while
processes and machines sleep: `held()`. A new holder increments the generation, and then waits for
its predecessor's hold plus a quarter, by its own clock, before it acts. Whatever the predecessor
was ever told, it asked before the increment; so its hold is over, unless one of the two clocks
goes wrong by a fifth. They are never compared.

Nobody has to be waited for who said good-bye (`released`), or who is known to be dead: the fence
names machine, process and start of the holder, and on the same machine a look tells. A holder
that still waits for its predecessor says so in the fence (`waiting`), and whoever succeeds it
waits for the longest hold of those before.

What remains is the instant between looking at `held()` and acting. A process that is stopped
right there goes on with that one act when it wakes. Nothing at the acting end can close that gap;
the receiving ends do: messages carry numbers, nodes hold epochs, and commits the generation.

**Lost connections.** A commit whose answer was lost may be stored or not. The ledger connects
again and takes its lock, which it gets only after its earlier session has ended; then the number
of commits in the fence tells, and the commit is done again if it was not stored. So `commit`
returns when it is stored, raises `CommitFailed` when it certainly is not, and `LedgerLost` when
this copy has to end. It waits for its server as long as that takes; `stopping` ends the wait.

Connect to the server itself: a pooler that lends sessions out for single transactions would lend
out the lock with them.

Modules: `ledger` what the actor sees; `takeover` how a process comes to hold it; `tenure` who may
act until when; `session` the connection and its lock; `process` which processes are dead;
`copying` backups; `schema` the tables, and what they add up to.
"""

from shirako.ledger.postgresql.ledger import PostgresLedger
from shirako.ledger.postgresql.tenure import HOLD_SECONDS

__all__ = ["HOLD_SECONDS", "PostgresLedger"]
