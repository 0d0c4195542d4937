"""Map/reduce operations on torch tensors, on CUDA when there is one. Needs torch and numpy only."""
