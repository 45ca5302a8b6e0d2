"""Virtual time, simulated sources, seeded faults and a history checker, for users and for ourselves."""
