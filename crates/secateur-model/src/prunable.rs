//! Which tensors can be pruned, and why the rest cannot.
