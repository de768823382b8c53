"""What a sampler is for besides samples: a module for each task, all on the same plans and executor."""
