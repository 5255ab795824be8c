//! Items being put on tiles: conversions are added where a value is needed in another form.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use secateur_kernels::tiled::Tiling;
use secateur_model::ops::Fact;
use secateur_model::{DType, Node, Result, Tensor, ValueId};

use super::Lower;
use crate::buffers::Pool;
use crate::item::Item;
use crate::kernels::{Kernel, f32s};
use crate::weights::Weights;

/// The tiles of a sample's maps or rows of features.
#[derive(Clone, Debug)]
pub(crate) struct Tiles {
    pub(crate) tiling: Tiling,
    /// How many samples there are, each with tiles of its own.
    pub(crate) samples: usize,
}

impl Tiles {
    /// Values in those of a sample.
    pub(crate) fn len(&self) -> usize {
        self.tiling.len(1)
    }

    /// Elements of a buffer that holds them from its first cache line on: vectors have no alignment of their own.
    fn buffer_len(&self) -> usize {
        self.len() + LINE
    }

    /// The operand `index` of a kernel, which are these tiles.
    pub(crate) fn of<'a>(&self, inputs: &'a [Option<Tensor>], index: usize) -> Result<&'a [f32]> {
        let buffer = f32s(inputs, index)?;
        Ok(&buffer[start(buffer)..][..self.len()])
    }

    /// A kernel's result, filled by `fill`.
    pub(crate) fn filled(&self, pool: &mut Pool, fill: impl FnOnce(&mut [f32])) -> Result<Vec<Tensor>> {
        let mut buffer = pool.take(self.buffer_len())?;
        let start = start(&buffer);
        fill(&mut buffer[start..][..self.len()]);
        Ok(vec![Tensor::new(vec![self.buffer_len()], buffer)?])
    }
}

/// Values of a cache line.
const LINE: usize = 16;

/// Where the first cache line of a buffer begins.
fn start(buffer: &[f32]) -> usize {
    buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE)
}

/// The plan's items so far, and which values stand as tiles.
pub(super) struct TileLayout<'a> {
    pub(super) facts: &'a mut Vec<Option<Fact>>,
    pub(super) items: Vec<Item>,
    tiles: HashMap<ValueId, (ValueId, Tiles)>,
    /// Values that stand as tiles alone so far.
    only_tiles: HashSet<ValueId>,
    weights: &'a Weights,
}

impl<'a> TileLayout<'a> {
    pub(super) fn new(facts: &'a mut Vec<Option<Fact>>, weights: &'a Weights) -> Self {
        TileLayout { facts, items: Vec::new(), tiles: HashMap::new(), only_tiles: HashSet::new(), weights }
    }

    /// Adds an item that runs on tensors.
    pub(super) fn on_tensors(&mut self, mut item: Item) {
        for input in item.node.inputs.clone().into_iter().flatten() {
            let converted = self.need_tensor(input);
            // What is handed out has just been computed: sample by sample where it was converted from tiles.
            if let (Some(samples), Some(_)) = (converted, item.observes) {
                item.samples = samples;
            }
        }
        self.items.push(item);
    }

    /// Adds an item that runs on tiles.
    pub(super) fn on_tiles(&mut self, item: Item, operands: &[ValueId], lower: &dyn Lower) -> Result<()> {
        let (inputs, tiles): (Vec<_>, Vec<_>) = operands.iter().map(|&value| self.need_tiles(value)).unzip();
        let samples = tiles[0].samples;
        let (kernel, out) = lower.lower(&tiles, item.epilogue.act, self.weights)?;
        if let Some(output) = item.node.outputs[0] {
            let value = self.new_tiles(output, out);
            self.only_tiles.insert(output);
            let inputs = inputs.into_iter().map(Some).collect();
            let node = Node { inputs, outputs: vec![Some(value)], ..item.node };
            self.items.push(Item { node, kernel: Some(kernel), samples, ..item });
        }
        Ok(())
    }

    /// Makes sure that a value stands as a tensor; the number of samples, where it is converted for that.
    pub(super) fn need_tensor(&mut self, value: ValueId) -> Option<usize> {
        if !self.only_tiles.remove(&value) {
            return None;
        }
        let (from, tiles) = self.tiles[&value].clone();
        let mut shape = self.facts[value.index()].as_ref().and_then(Fact::shape).unwrap_or_default().to_vec();
        let (samples, values) = (tiles.samples, shape.iter().product());
        shape[0] /= samples;
        self.convert("FromTiles", [from, value], [values, samples], FromTiles { tiles, shape });
        Some(samples)
    }

    /// The tiles of a value.
    fn need_tiles(&mut self, value: ValueId) -> (ValueId, Tiles) {
        if let Some(known) = self.tiles.get(&value) {
            return known.clone();
        }
        let shape = self.facts[value.index()].as_ref().and_then(Fact::shape).unwrap_or_default();
        let samples = samples(shape);
        let tiling = match *shape {
            [_, channels, height, width] => Tiling::new(channels, height, width),
            _ => Tiling::of_tokens(shape[shape.len() - 1], rows(shape) / samples),
        };
        let tiles = Tiles { tiling, samples };
        let (maps, values) = (shape.len() == 4, shape.iter().product());
        let to = self.new_tiles(value, tiles.clone());
        self.convert("ToTiles", [value, to], [values, samples], ToTiles { tiles: tiles.clone(), maps });
        (to, tiles)
    }

    /// A new value for the tiles of another.
    fn new_tiles(&mut self, value: ValueId, tiles: Tiles) -> ValueId {
        self.facts.push(Some(Fact::new(DType::F32, [tiles.buffer_len()])));
        let new = ValueId(self.facts.len() as u32 - 1);
        self.tiles.insert(value, (new, tiles));
        new
    }

    /// Adds an item that converts a value of so many elements, in samples, into another.
    fn convert(
        &mut self,
        op_type: &str,
        [input, output]: [ValueId; 2],
        [values, samples]: [usize; 2],
        kernel: impl Kernel + 'static,
    ) {
        let (inputs, outputs) = (vec![Some(input)], vec![Some(output)]);
        let node = Node { op_type: op_type.into(), inputs, outputs, ..Node::default() };
        let estimate = Some(self.weights.costs.turn * values as f64);
        self.items.push(Item { node, kernel: Some(Arc::new(kernel)), estimate, samples, ..Item::default() });
    }
}

/// Samples of a value that are computed one after the other, so that what is computed of one stays in the caches: the
/// images of a batch, or its sequences where they fill tiles.
pub(super) fn samples(shape: &[usize]) -> usize {
    match *shape {
        [batch, _, _, _] => batch,
        [batch, tokens, _] if tokens >= LEAST_TOKENS => batch,
        _ => 1,
    }
}

/// Tokens of a sequence that is a sample of its own, at the least.
const LEAST_TOKENS: usize = 64;

/// Rows of a tensor, each along its last axis.
pub(super) fn rows(shape: &[usize]) -> usize {
    shape[..shape.len() - 1].iter().product()
}

struct ToTiles {
    tiles: Tiles,
    /// Whether a tensor is of maps and not of rows.
    maps: bool,
}

impl Kernel for ToTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let x = f32s(inputs, 0)?;
        let tiling = &self.tiles.tiling;
        self.tiles.filled(pool, |tiles| {
            if self.maps { tiling.from_nchw(1, x, tiles) } else { tiling.from_rows(x, tiles) }
        })
    }
}

struct FromTiles {
    tiles: Tiles,
    /// Of a sample.
    shape: Vec<usize>,
}

impl Kernel for FromTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let tiles = self.tiles.of(inputs, 0)?;
        let mut out = pool.take(self.shape.iter().product())?;
        let tiling = &self.tiles.tiling;
        if self.shape.len() == 4 {
            tiling.to_nchw(1, tiles, &mut out)
        } else {
            tiling.to_rows(tiles, &mut out)
        }
        Ok(vec![Tensor::new(self.shape.clone(), out)?])
    }
}
