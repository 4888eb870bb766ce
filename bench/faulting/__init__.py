"""Parts of `bench/faults.py`: a stand of real processes; what breaks, uses and checks it."""
