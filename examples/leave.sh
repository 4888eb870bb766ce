# Runs on each node as the guest before the lease ends: take what is yours along.
echo "leaving $(hostname) with $(ls "$HOME/work" | wc -l) file(s) of work"
