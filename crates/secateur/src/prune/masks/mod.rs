//! Masks: which elements of a tensor are kept, where a model's masks are stored, and how they are read and
//! written.
//!
//! A model's masks are stored in one of three forms ([`Form`]): exact zeros; a sidecar,
//! `<model>.masks.safetensors` next to the model, with the original weights on request; or, in
//! checkpoints, the pairs that `torch.nn.utils.prune` makes, `weight_orig` and `weight_mask`. The
//! sidecar uses PyTorch's names too.

mod finish;
mod kept;
mod mask;
mod pairs;
mod sidecar;

pub use finish::{Output, finalize, kept_metadata, output, trained, undo};
pub use kept::{Form, MASK, Masks, ORIGINAL};
pub use mask::Mask;
pub use pairs::Pair;
pub use sidecar::path_for as sidecar_path;

use kept::{masked, read_mask};
