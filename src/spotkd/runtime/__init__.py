"""What a run needs of the machine: devices, processes that work together, signals, child processes."""
