# Runs on each node of a lease as the guest, once the lease is there (guest driver `ssh`).
# What the node has to know of its lease is in SHIRAKO_* variables.
echo "joined slice $SHIRAKO_SLICE as $(id -un)@$(hostname)"
mkdir -p "$HOME/work"
echo "$SHIRAKO_LEASE" > "$HOME/work/lease"
