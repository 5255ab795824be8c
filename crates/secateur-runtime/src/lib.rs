//! Compiles a model into a plan and runs it on the CPU.
