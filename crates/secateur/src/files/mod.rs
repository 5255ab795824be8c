//! Model files: inspection, comparison, checks, packing and sizes.

pub mod diff;
pub mod inspect;
pub mod pack;
pub mod size;
pub mod verify;
