//! Models, tensors, the graph, the meaning of operators and file formats of secateur.
