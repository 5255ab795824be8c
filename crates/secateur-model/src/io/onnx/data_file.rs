//! External data with a new layout.

use std::collections::HashMap;

use super::splice::{Piece, tensor_field};
use super::wire::put_bytes;

/// A new file of external data: what tensors need of the old ones, in the order of the tensors.
#[derive(Default)]
pub(super) struct DataFile {
    pub(super) location: String,
    pub(super) pieces: Vec<Piece>,
    len: u64,
    /// Where bytes of the old files went.
    moved: HashMap<(usize, usize, usize), u64>,
}

impl DataFile {
    /// Large tensors begin at a page, so that they can be mapped; others at a multiple that suits any type.
    const PAGE: u64 = 4096;
    const ALIGN: u64 = 64;

    /// An empty file that will have this name.
    pub(super) fn at(location: &str) -> Self {
        DataFile { location: location.to_string(), ..Self::default() }
    }

    /// Takes a tensor's elements; returns the fields of `TensorProto` that say where they are.
    pub(super) fn take(&mut self, piece: Piece) -> Vec<u8> {
        let len = piece.len();
        let known = match &piece {
            Piece::External(file, range) => Some((*file, range.start, range.end)),
            _ => None,
        };
        let offset = match known.and_then(|known| self.moved.get(&known)) {
            Some(&offset) => offset,
            None => {
                let offset =
                    self.len.next_multiple_of(if len < Self::PAGE { Self::ALIGN } else { Self::PAGE });
                self.pieces.push(Piece::New(vec![0; (offset - self.len) as usize]));
                self.pieces.push(piece);
                self.len = offset + len;
                self.moved.extend(known.map(|known| (known, offset)));
                offset
            }
        };
        let mut out = Vec::new();
        let numbers = [("offset", offset), ("length", len)].map(|(key, n)| (key, n.to_string()));
        for (key, value) in [("location", self.location.clone())].into_iter().chain(numbers) {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            put_bytes(&mut entry, 2, value.as_bytes());
            put_bytes(&mut out, tensor_field::EXTERNAL_DATA, &entry);
        }
        out
    }
}
