//! The command secateur: prunes trained neural networks and shows what that costs.
fn main() {}
