//! Layout: where sparse kernels pay, chains of convolutions keep their values in tiles.
//!
//! Sparse kernels want the pixels of a few rows of a channel side by side ([`Tiling`]); everything else runs on
//! plain row-major tensors. This pass looks for convolutions whose weights are sparse and for what can run on
//! tiles between them, weighs what sparsity saves against what turning values into tiles and back costs, and
//! puts kernels for tiles in their place. The decision follows from the weights and a table of costs alone, so
//! that results depend neither on the machine's load nor on the number of threads.

use std::collections::{HashMap, HashSet};

use secateur_kernels::sparse::SparseConv;
use secateur_kernels::tiled::Tiling;
use secateur_kernels::{Activation, BinaryOp, activate, binary};
use secateur_model::ops::{Fact, Facts};
use secateur_model::{DType, Node, Result, Tensor, ValueId};

use crate::kernels::{self, ConvConstants, Kernel, f32s};
use crate::plan::{Item, Prepared};
use crate::pool::Pool;

/// What a multiplication with a weight that is not zero costs in a sparse kernel, where one in a dense kernel
/// costs 1.
const SPARSE: f64 = 1.5;
/// What bringing a pixel of an input channel into place costs, for each row of the kernel's window.
const PACK: f64 = 1.0;
/// What turning a value into tiles, or back, costs.
const TURN: f64 = 4.0;

/// What an item computes where it can run on tiles.
enum Work {
    /// A convolution, and what it saves on tiles.
    Conv(ConvConstants, f64),
    Add,
    Activate(Activation),
}

/// The items of a plan, some of them on tiles.
pub(crate) fn lay_out(
    items: Vec<Item>,
    facts: &mut Vec<Option<Fact>>,
    outputs: &[ValueId],
) -> Result<Vec<Item>> {
    let works: Vec<Option<Work>> = items.iter().map(|item| work(item, facts)).collect::<Result<_>>()?;
    if works.iter().flatten().all(|w| !matches!(w, Work::Conv(..))) {
        return Ok(items);
    }
    let chosen = choose(&items, &works, facts, outputs);
    let mut layout = Layout { facts, tiles: HashMap::new(), only_tiles: HashSet::new(), items: Vec::new() };
    for ((item, work), on_tiles) in items.into_iter().zip(works).zip(chosen) {
        match work.filter(|_| on_tiles) {
            Some(work) => layout.on_tiles(item, work)?,
            None => layout.on_tensors(item),
        }
    }
    for &output in outputs {
        layout.need_tensor(output);
    }
    Ok(layout.items)
}

/// What an item computes, where it is something that runs on tiles.
fn work(item: &Item, facts: &[Option<Fact>]) -> Result<Option<Work>> {
    let fact = |id: &Option<ValueId>| id.and_then(|id| facts[id.index()].as_ref());
    let computed = |id: &Option<ValueId>| {
        fact(id).is_some_and(|f| {
            f.dtype == Some(DType::F32) && f.value.is_none() && f.shape().is_some_and(|s| s.len() == 4)
        })
    };
    let [Some(_)] = item.node.outputs[..] else { return Ok(None) };
    if !computed(&item.node.outputs[0]) || !item.node.domain.is_empty() || !item.views.is_plain() {
        return Ok(None);
    }
    let inputs: Vec<Option<Fact>> = item.node.inputs.iter().map(|i| fact(i).cloned()).collect();
    match item.node.op_type.as_str() {
        "Conv" if computed(&item.node.inputs[0]) => {
            if item.epilogue.add.is_some_and(|i| !computed(&item.node.inputs[i])) {
                return Ok(None);
            }
            let Some(constants) = kernels::conv_constants(&item.node, Facts(&inputs), &item.epilogue)? else {
                return Ok(None);
            };
            let saving = saving(&constants, &inputs);
            Ok((saving > 0.0).then_some(Work::Conv(constants, saving)))
        }
        "Add" if item.node.inputs.iter().all(computed) && item.epilogue.is_empty() => {
            let shape = |i: usize| inputs.get(i)?.as_ref()?.shape();
            Ok((item.node.inputs.len() == 2 && shape(0) == shape(1)).then_some(Work::Add))
        }
        _ if computed(&item.node.inputs.first().copied().flatten()) && item.epilogue.is_empty() => {
            Ok(kernels::activation(&item.node, Facts(&inputs))?.map(Work::Activate))
        }
        _ => Ok(None),
    }
}

/// What a convolution saves on tiles, in dense multiplications.
fn saving(conv: &ConvConstants, inputs: &[Option<Fact>]) -> f64 {
    let Some(&[batch, _, _, _]) = inputs[0].as_ref().and_then(Fact::shape) else { return 0.0 };
    let spec = &conv.spec;
    let out: usize = spec.out_size().iter().product::<usize>() * batch;
    let nonzero = conv.weights.iter().filter(|w| **w != 0.0).count();
    let window = if spec.kernel.iter().all(|&k| k == 1) { 0 } else { spec.kernel[0] };
    let pack = PACK * (window * spec.in_channels * out) as f64;
    (conv.weights.len() * out) as f64 - SPARSE * (nonzero * out) as f64 - pack
}

/// Which items run on tiles: neighbours that together save more than turning values at their borders costs.
fn choose(items: &[Item], works: &[Option<Work>], facts: &[Option<Fact>], outputs: &[ValueId]) -> Vec<bool> {
    let size = |id: ValueId| {
        facts[id.index()].as_ref().and_then(Fact::shape).map_or(0, |s| s.iter().product::<usize>()) as f64
    };
    // The operands that would be tiles.
    let operands = |i: usize| -> Vec<ValueId> {
        let node = &items[i].node;
        let all: Vec<Option<ValueId>> = match &works[i] {
            Some(Work::Conv(..)) => {
                let add = items[i].epilogue.add.map(|at| node.inputs[at]);
                std::iter::once(node.inputs[0]).chain(add).collect()
            }
            Some(Work::Add) => node.inputs.clone(),
            Some(Work::Activate(_)) => vec![node.inputs[0]],
            None => Vec::new(),
        };
        all.into_iter().flatten().collect()
    };
    let mut group: Vec<usize> = (0..items.len()).collect();
    fn root(group: &mut [usize], mut i: usize) -> usize {
        while group[i] != i {
            group[i] = group[group[i]];
            i = group[i];
        }
        i
    }
    let mut producer: HashMap<ValueId, usize> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        for operand in operands(i) {
            if let Some(&p) = producer.get(&operand) {
                let (a, b) = (root(&mut group, p), root(&mut group, i));
                group[a.max(b)] = a.min(b);
            }
        }
        if let (Some(_), Some(output)) = (&works[i], item.node.outputs[0]) {
            producer.insert(output, i);
        }
    }
    let groups: Vec<usize> = (0..items.len()).map(|i| root(&mut group, i)).collect();
    let mut gain = vec![0.0; items.len()];
    for (i, work) in works.iter().enumerate() {
        if let Some(Work::Conv(_, saving)) = work {
            gain[groups[i]] += saving;
        }
    }
    // A value is turned once into tiles for a group that does not make it, once back for who is outside.
    let mut turned: HashMap<(usize, ValueId), f64> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        let tiles = operands(i);
        for &operand in &tiles {
            if producer.get(&operand).is_none_or(|&p| groups[p] != groups[i]) {
                turned.insert((groups[i], operand), size(operand));
            }
        }
        for operand in item.node.inputs.iter().flatten().filter(|id| !tiles.contains(id)) {
            if let Some(&p) = producer.get(operand) {
                turned.insert((groups[p], *operand), size(*operand));
            }
        }
    }
    for output in outputs {
        if let Some(&p) = producer.get(output) {
            turned.insert((groups[p], *output), size(*output));
        }
    }
    for ((group, _), size) in turned {
        gain[group] -= TURN * size;
    }
    (0..items.len()).map(|i| works[i].is_some() && gain[groups[i]] > 0.0).collect()
}

/// Items being put on tiles.
struct Layout<'a> {
    facts: &'a mut Vec<Option<Fact>>,
    /// The tiles of a value.
    tiles: HashMap<ValueId, (ValueId, Tiling, usize)>,
    /// Values that stand as tiles alone so far.
    only_tiles: HashSet<ValueId>,
    items: Vec<Item>,
}

impl Layout<'_> {
    fn on_tensors(&mut self, item: Item) {
        let captured: Vec<ValueId> = item.node.inputs.iter().flatten().copied().collect();
        for input in captured {
            self.need_tensor(input);
        }
        self.items.push(item);
    }

    /// Makes sure that a value stands as a tensor.
    fn need_tensor(&mut self, value: ValueId) {
        if !self.only_tiles.remove(&value) {
            return;
        }
        let (tiles, tiling, batch) = self.tiles[&value].clone();
        let shape = self.facts[value.index()].as_ref().and_then(Fact::shape).unwrap_or_default().to_vec();
        let kernel = FromTiles { tiling, batch, shape };
        self.push("FromTiles", &[tiles], value, kernel);
    }

    /// The tiles of a value.
    fn need_tiles(&mut self, value: ValueId) -> (ValueId, Tiling, usize) {
        if let Some(known) = self.tiles.get(&value) {
            return known.clone();
        }
        let shape = self.facts[value.index()].as_ref().and_then(Fact::shape).unwrap_or_default();
        let (batch, tiling) = (shape[0], Tiling::new(shape[1], shape[2], shape[3]));
        let tiles = self.new_tiles(value, &tiling, batch);
        self.push("ToTiles", &[value], tiles, ToTiles { tiling: tiling.clone(), batch });
        (tiles, tiling, batch)
    }

    /// A new value for the tiles of another.
    fn new_tiles(&mut self, value: ValueId, tiling: &Tiling, batch: usize) -> ValueId {
        self.facts.push(Some(Fact::new(DType::F32, [room(tiling, batch)])));
        let tiles = ValueId(self.facts.len() as u32 - 1);
        self.tiles.insert(value, (tiles, tiling.clone(), batch));
        tiles
    }

    fn push(&mut self, op_type: &str, inputs: &[ValueId], output: ValueId, kernel: impl Kernel + 'static) {
        let node = Node {
            op_type: op_type.into(),
            inputs: inputs.iter().map(|&i| Some(i)).collect(),
            outputs: vec![Some(output)],
            ..Node::default()
        };
        self.items.push(Item { node, kernel: Some(Prepared::new(kernel)), ..Item::default() });
    }

    fn on_tiles(&mut self, item: Item, work: Work) -> Result<()> {
        let (Some(output), Some(first)) = (item.node.outputs[0], item.node.inputs[0]) else { return Ok(()) };
        let (x, tiling, batch) = self.need_tiles(first);
        let mut inputs = vec![Some(x)];
        let (kernel, out_tiling) = match work {
            Work::Conv(constants, _) => {
                let conv =
                    SparseConv::new(&constants.weights, constants.bias.as_deref(), &constants.spec, &tiling);
                let residual = item.epilogue.add.and_then(|at| item.node.inputs[at]);
                inputs.extend(residual.map(|value| Some(self.need_tiles(value).0)));
                let out = conv.output().clone();
                (Prepared::new(OnTiles { conv, batch, act: item.epilogue.act }), out)
            }
            Work::Add => {
                inputs.extend(item.node.inputs[1].map(|value| Some(self.need_tiles(value).0)));
                (Prepared::new(AddTiles { len: tiling.len(batch), room: room(&tiling, batch) }), tiling)
            }
            Work::Activate(act) => (
                Prepared::new(ActivateTiles { act, len: tiling.len(batch), room: room(&tiling, batch) }),
                tiling,
            ),
        };
        let tiles = self.new_tiles(output, &out_tiling, batch);
        self.only_tiles.insert(output);
        let node = Node { inputs, outputs: vec![Some(tiles)], ..item.node };
        self.items.push(Item { node, kernel: Some(kernel), ..item });
        Ok(())
    }
}

/// Values of a cache line.
const LINE: usize = 16;

/// Elements of a buffer that holds tiles from its first cache line on.
fn room(tiling: &Tiling, batch: usize) -> usize {
    tiling.len(batch) + LINE
}

/// Where the tiles begin in a buffer: vectors have no alignment of their own.
fn start(buffer: &[f32]) -> usize {
    buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE)
}

fn tiles_of(inputs: &[Option<Tensor>], index: usize, len: usize) -> Result<&[f32]> {
    let buffer = f32s(inputs, index)?;
    Ok(&buffer[start(buffer)..][..len])
}

/// A buffer for tiles, filled by `fill`.
fn new_tiles(pool: &mut Pool, room: usize, fill: impl FnOnce(&mut [f32])) -> Result<Vec<Tensor>> {
    let mut buffer = pool.take(room);
    let start = start(&buffer);
    fill(&mut buffer[start..][..room - LINE]);
    Ok(vec![Tensor::new(vec![room], buffer)?])
}

struct ToTiles {
    tiling: Tiling,
    batch: usize,
}

impl Kernel for ToTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let x = f32s(inputs, 0)?;
        new_tiles(pool, room(&self.tiling, self.batch), |tiles| self.tiling.from_nchw(self.batch, x, tiles))
    }
}

struct FromTiles {
    tiling: Tiling,
    batch: usize,
    shape: Vec<usize>,
}

impl Kernel for FromTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let tiles = tiles_of(inputs, 0, self.tiling.len(self.batch))?;
        let mut out = pool.take(self.shape.iter().product());
        self.tiling.to_nchw(self.batch, tiles, &mut out);
        Ok(vec![Tensor::new(self.shape.clone(), out)?])
    }
}

struct OnTiles {
    conv: SparseConv,
    batch: usize,
    act: Activation,
}

impl Kernel for OnTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let x = tiles_of(inputs, 0, self.conv.input().len(self.batch))?;
        let out_len = self.conv.output().len(self.batch);
        let residual = if inputs.len() > 1 { Some(tiles_of(inputs, 1, out_len)?) } else { None };
        new_tiles(pool, out_len + LINE, |out| self.conv.run(self.batch, x, residual, self.act, out))
    }

    fn name(&self) -> Option<&'static str> {
        Some("sparse")
    }
}

struct AddTiles {
    len: usize,
    room: usize,
}

impl Kernel for AddTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let (a, b) = (tiles_of(inputs, 0, self.len)?, tiles_of(inputs, 1, self.len)?);
        new_tiles(pool, self.room, |out| {
            binary(BinaryOp::Add, a, &[self.len], b, &[self.len], out, &[self.len])
        })
    }
}

struct ActivateTiles {
    act: Activation,
    len: usize,
    room: usize,
}

impl Kernel for ActivateTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let x = tiles_of(inputs, 0, self.len)?;
        new_tiles(pool, self.room, |out| {
            out.copy_from_slice(x);
            activate(self.act, out);
        })
    }
}
