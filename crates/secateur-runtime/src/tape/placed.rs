//! Where the values of a training lie: convolutions, batch-norms and what is computed element by element between them pass
//! maps on in [`Planes`], so that nothing is copied from one layer to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use secateur_kernels::{Planes, TrainedConv, activate};
use secateur_model::ops::{Fact, Facts};
use secateur_model::{Result, Tensor, ValueId};

use crate::buffers::Pool;
use crate::item::Item;
use crate::kernels::{self, Backward, Differentiated, Kernel, Layouts};

/// The planes in which a value lies; a tensor where there are none.
pub(super) type Place = Option<Arc<Planes>>;

impl Layouts {
    /// The planes of the outputs of all convolutions that train, one for each size and batch: with room for the shifts of all
    /// of them.
    pub(super) fn new(items: &[Item], facts: &[Option<Fact>], wanted: &[bool]) -> Result<Layouts> {
        let mut specs: BTreeMap<(usize, Vec<usize>), Vec<_>> = BTreeMap::new();
        for node in items.iter().map(|item| &item.node) {
            if node.inputs.iter().flatten().any(|id| wanted[id.index()])
                && let Some((batch, spec)) = kernels::trained_conv(node, facts)?
            {
                specs.entry((batch, spec.out_size())).or_default().push(spec);
            }
        }
        let place = |((batch, size), specs): ((usize, Vec<usize>), Vec<_>)| {
            let mut extents = [1; 3];
            for spec in &specs {
                let own = TrainedConv::extents(spec);
                extents.iter_mut().zip(own).for_each(|(extent, own)| *extent = own.max(*extent));
            }
            let reach = specs.iter().map(|spec| TrainedConv::reach(spec, extents)).max().unwrap_or(0);
            let planes = Planes::padded(batch, &size, extents, reach);
            ((batch, size), Arc::new(planes))
        };
        Ok(Layouts(specs.into_iter().map(place).collect()))
    }
}

/// Where a node's first output lies if it is computed element by element from values that lie in the same planes, and zero
/// around the maps.
pub(super) fn elementwise(item: &Item, places: &[Place], facts: &[Option<Fact>]) -> Place {
    let (node, out) = (&item.node, item.node.outputs.first().copied().flatten()?);
    let first = places.first()?.clone()?;
    if !node.domain.is_empty()
        || !item.epilogue.is_empty()
        || !item.views.is_plain()
        || node.outputs.len() > 1
    {
        return None;
    }
    let shape = |id: ValueId| facts[id.index()].as_ref()?.shape().map(<[usize]>::to_vec);
    let same = node.inputs.iter().flatten().all(|id| shape(*id) == shape(out));
    match node.op_type.as_str() {
        "Add" | "Sub" | "Mul" => {
            (same && places.iter().all(|place| *place == Some(first.clone()))).then_some(first)
        }
        _ => {
            let operands: Vec<Option<Fact>> =
                node.inputs.iter().map(|id| id.and_then(|id| facts[id.index()].clone())).collect();
            let act = kernels::activation(node, Facts(&operands)).ok().flatten()?;
            let mut zero = [0.0];
            activate(act, &mut zero);
            (zero == [0.0]).then_some(first)
        }
    }
}

/// An operand that a node takes elsewhere than where it lies.
#[derive(Clone)]
pub(super) struct Move {
    pub(super) index: usize,
    pub(super) from: Place,
    pub(super) to: Place,
    /// As a tensor.
    pub(super) shape: Vec<usize>,
}

impl Move {
    fn forward(&self, tensor: &Tensor, pool: &mut Pool) -> Result<Tensor> {
        moved(&self.shape, [&self.from, &self.to], tensor, pool)
    }

    fn back(&self, tensor: &Tensor, pool: &mut Pool) -> Result<Tensor> {
        moved(&self.shape, [&self.to, &self.from], tensor, pool)
    }
}

/// A value from one place to another.
fn moved(shape: &[usize], [from, to]: [&Place; 2], tensor: &Tensor, pool: &mut Pool) -> Result<Tensor> {
    let channels = shape[1];
    let plain = match from {
        None => tensor.clone(),
        Some(planes) => {
            let mut out = pool.take(shape.iter().product())?;
            planes.unpack(channels, tensor.values()?, &mut out);
            Tensor::new(shape.to_vec(), out)?
        }
    };
    let Some(planes) = to else { return Ok(plain) };
    let mut out = pool.take(planes.len(channels))?;
    planes.pack(channels, plain.values()?, &mut out);
    pool.reclaim(plain);
    Tensor::new([out.len()], out)
}

/// A forward pass whose operands are moved first.
pub(super) struct Moved {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) moves: Vec<Move>,
}

impl Kernel for Moved {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        for of in &self.moves {
            if let Some(tensor) = inputs[of.index].take() {
                inputs[of.index] = Some(of.forward(&tensor, pool)?);
                pool.reclaim(tensor);
            }
        }
        self.kernel.run(inputs, pool)
    }

    fn prepacked_inputs(&self) -> &[usize] {
        self.kernel.prepacked_inputs()
    }

    fn name(&self) -> Option<&'static str> {
        self.kernel.name()
    }
}

/// A backward pass whose operands are moved first, and their gradients back.
pub(super) fn move_operands(found: Differentiated, moves: Vec<Move>) -> Differentiated {
    let backward = found.backward;
    let moved = move |at: &mut Backward<'_>| {
        let mut inputs = at.inputs.to_vec();
        for of in &moves {
            if let Some(tensor) = inputs[of.index].take() {
                inputs[of.index] = Some(of.forward(&tensor, at.pool)?);
            }
        }
        let mut own = Backward {
            inputs: &inputs,
            outputs: at.outputs,
            shape: at.shape,
            gradients: &mut *at.gradients,
            wanted: at.wanted,
            pool: &mut *at.pool,
        };
        let mut gradients = backward(&mut own)?;
        for of in &moves {
            if let Some(tensor) = inputs[of.index].take() {
                at.pool.reclaim(tensor);
            }
            if let Some(gradient) = gradients.get_mut(of.index).and_then(Option::take) {
                gradients[of.index] = Some(of.back(&gradient, at.pool)?);
                at.pool.reclaim(gradient);
            }
        }
        Ok(gradients)
    };
    Differentiated { backward: Box::new(moved), ..found }
}
