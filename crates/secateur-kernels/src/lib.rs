//! Compute kernels of secateur: slices in, slices out.
