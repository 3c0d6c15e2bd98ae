"""Ray: connecting with a deadline, groups of SPMD workers, and groups kept warm between stages."""
