//! Axes as concatenations and products of dimensions, and what it takes to make two of them equal.
//!
//! ```text
//! Flatten    [N, C, H, W] → [N, C·H·W]         a product: the first factor varies slowest
//! Concat     [N, a], [N, b] → [N, [a | b]]     a concatenation of segments
//! MHA        hidden = heads · width            split where a Reshape cuts it
//! packed QKV [q | k | v], each heads · width   both at once
//! ```
//!
//! Two axes that meet elementwise are the same: [`Space::unify`] cuts segments at common points and factors at common
//! products. What has no common cut, such as 2·3 against 3·2, becomes fixed: its elements keep their places.

use std::collections::{HashMap, VecDeque};

use crate::{NodeId, ValueId};

mod unify;

/// An axis of a value, or a part of one: a handle into a [`Space`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Axis(u32);

/// Why the elements along an axis keep their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fixed {
    /// A node looks at positions, such as a window or an index.
    Position(NodeId),
    /// The operator of a node states nothing about its axes.
    Unstated(NodeId),
    /// A node rearranges elements in a way that is no product or concatenation of whole dimensions.
    Irregular(NodeId),
    /// The shape of an operand is not known.
    Unknown(NodeId),
    /// A nested graph reads the value.
    Captured(ValueId),
    /// The caller gives the value.
    Input(ValueId),
    /// The caller receives the value.
    Output(ValueId),
    /// The graph is too intricate to be followed.
    Limit,
}

/// What an axis consists of.
#[derive(Clone, Debug)]
enum Form {
    /// A dimension: nothing smaller is known.
    Dim,
    /// Row-major: the first factor varies slowest.
    Product(Box<[Axis]>),
    /// Segments, one after the other.
    Concat(Box<[Axis]>),
    /// Another axis.
    Same(Axis),
}

#[derive(Clone, Debug)]
struct Entry {
    extent: usize,
    form: Form,
    fixed: Option<Fixed>,
    normalised: Option<NodeId>,
    /// Dimensions it consisted of when it was made, as often as they occur.
    parts: usize,
}

/// What an axis consists of, as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View<'a> {
    /// A dimension.
    Dim,
    /// A product; the first factor varies slowest.
    Product(&'a [Axis]),
    /// A concatenation.
    Concat(&'a [Axis]),
}

/// Steps of unification in one graph; beyond, everything counts as fixed. Real networks take a few for each node.
const STEPS: usize = 1 << 23;

/// The axes of a graph and what is known of them.
#[derive(Clone, Debug, Default)]
pub struct Space {
    entries: Vec<Entry>,
    steps: usize,
}

impl Space {
    /// A dimension of its own.
    pub fn dim(&mut self, extent: usize) -> Axis {
        self.entry(extent, Form::Dim)
    }

    fn entry(&mut self, extent: usize, form: Form) -> Axis {
        let axis = Axis(self.entries.len() as u32);
        let parts = match &form {
            Form::Product(parts) | Form::Concat(parts) => {
                parts.iter().fold(0usize, |sum, part| sum.saturating_add(self.entries[part.0 as usize].parts))
            }
            Form::Dim | Form::Same(_) => 1,
        };
        // Every query of the axis visits its parts.
        self.steps = self.steps.saturating_add(parts);
        self.entries.push(Entry { extent, form, fixed: None, normalised: None, parts });
        axis
    }

    /// The product of axes, the first varying slowest.
    pub fn product(&mut self, factors: &[Axis]) -> Axis {
        let factors: Vec<Axis> = factors.iter().copied().filter(|&f| self.extent(f) != 1).collect();
        match factors[..] {
            [] => self.dim(1),
            [only] => only,
            _ => {
                let extent = factors.iter().fold(1usize, |all, &f| all.saturating_mul(self.extent(f)));
                self.entry(extent, Form::Product(factors.into()))
            }
        }
    }

    /// Axes one after the other.
    pub fn concat(&mut self, segments: &[Axis]) -> Axis {
        let segments: Vec<Axis> = segments.iter().copied().filter(|&s| self.extent(s) != 0).collect();
        match segments[..] {
            [] => self.dim(0),
            [only] => only,
            _ => {
                let extent = segments.iter().fold(0usize, |all, &s| all.saturating_add(self.extent(s)));
                self.entry(extent, Form::Concat(segments.into()))
            }
        }
    }

    /// The number of elements along an axis.
    pub fn extent(&self, axis: Axis) -> usize {
        self.entries[axis.0 as usize].extent
    }

    /// The one handle of all axes that are the same as this one.
    pub fn find(&self, axis: Axis) -> Axis {
        let mut at = axis;
        while let Form::Same(next) = self.entries[at.0 as usize].form {
            at = next;
        }
        at
    }

    /// As [`Space::find`], shortening the way for the next time.
    fn shorten(&mut self, axis: Axis) -> Axis {
        let found = self.find(axis);
        let mut at = axis;
        while let Form::Same(next) = self.entries[at.0 as usize].form {
            if next != found {
                self.entries[at.0 as usize].form = Form::Same(found);
            }
            at = next;
        }
        found
    }

    /// Whether the graph is too intricate to be followed. Then each axis is a fixed dimension of its own.
    fn gave_up(&self) -> bool {
        self.steps > STEPS
    }

    /// What an axis consists of.
    pub fn view(&self, axis: Axis) -> View<'_> {
        if self.gave_up() {
            return View::Dim;
        }
        match &self.entries[self.find(axis).0 as usize].form {
            Form::Dim | Form::Same(_) => View::Dim,
            Form::Product(factors) => View::Product(factors),
            Form::Concat(segments) => View::Concat(segments),
        }
    }

    /// Why an axis, or a dimension of it, is fixed; `None` where all of it may be permuted.
    pub fn fixed(&self, axis: Axis) -> Option<Fixed> {
        if self.gave_up() {
            return Some(Fixed::Limit);
        }
        self.first(axis, |entry| entry.fixed)
    }

    /// The first node that normalises over an axis or a dimension of it: what is left out there changes the rest.
    pub fn normalised(&self, axis: Axis) -> Option<NodeId> {
        if self.gave_up() {
            return None;
        }
        self.first(axis, |entry| entry.normalised)
    }

    fn first<T>(&self, axis: Axis, what: impl Fn(&Entry) -> Option<T>) -> Option<T> {
        let mut seen = std::collections::HashSet::new();
        let mut left = vec![axis];
        while let Some(axis) = left.pop() {
            let axis = self.find(axis);
            if !seen.insert(axis) {
                continue;
            }
            let entry = &self.entries[axis.0 as usize];
            match &entry.form {
                Form::Product(parts) | Form::Concat(parts) => left.extend(parts.iter().rev()),
                Form::Dim | Form::Same(_) => {
                    if let Some(found) = what(entry) {
                        return Some(found);
                    }
                }
            }
        }
        None
    }

    /// The dimensions an axis consists of, each once, in the order they are met.
    pub fn dims(&self, axis: Axis) -> Vec<Axis> {
        let (mut seen, mut dims) = (std::collections::HashSet::new(), Vec::new());
        let mut left = vec![axis];
        while let Some(axis) = left.pop() {
            let axis = self.find(axis);
            if !seen.insert(axis) {
                continue;
            }
            match self.view(axis) {
                View::Dim => dims.push(axis),
                View::Product(parts) | View::Concat(parts) => left.extend(parts.iter().rev()),
            }
        }
        dims
    }

    /// The positions along an axis that are left, in their new order, where each dimension keeps those of `chosen`
    /// (all of them, in order, where it is not there). With permutations this permutes, with fewer it removes.
    pub fn select(&self, axis: Axis, chosen: &HashMap<Axis, Vec<usize>>) -> Vec<usize> {
        let axis = self.find(axis);
        match self.view(axis) {
            View::Dim => match chosen.get(&axis) {
                Some(kept) => kept.clone(),
                None => (0..self.extent(axis)).collect(),
            },
            View::Product(_) => self.factors(axis).into_iter().fold(vec![0], |slower, factor| {
                let (inner, extent) = (self.select(factor, chosen), self.extent(factor));
                slower.iter().flat_map(|&s| inner.iter().map(move |&i| s * extent + i)).collect()
            }),
            View::Concat(_) => {
                let mut at = 0;
                let mut all = Vec::new();
                for segment in self.segments(axis) {
                    all.extend(self.select(segment, chosen).into_iter().map(|i| at + i));
                    at += self.extent(segment);
                }
                all
            }
        }
    }

    /// Fixes an axis: its elements keep their places.
    pub fn fix(&mut self, axis: Axis, why: Fixed) {
        self.mark(axis, |entry| match entry.fixed {
            Some(_) => false,
            None => {
                entry.fixed = Some(why);
                true
            }
        });
    }

    /// Notes that a node normalises over an axis.
    pub fn normalise(&mut self, axis: Axis, node: NodeId) {
        self.mark(axis, |entry| match entry.normalised {
            Some(_) => false,
            None => {
                entry.normalised = Some(node);
                true
            }
        });
    }

    /// Marks an axis and what it consists of; `set` says whether the mark is new.
    fn mark(&mut self, axis: Axis, set: impl Fn(&mut Entry) -> bool) {
        let mut left = vec![axis];
        while let Some(axis) = left.pop() {
            let axis = self.shorten(axis);
            let entry = &mut self.entries[axis.0 as usize];
            if set(entry)
                && let Form::Product(parts) | Form::Concat(parts) = &entry.form
            {
                left.extend(parts.iter().copied());
            }
        }
    }

    /// The factors of an axis, those of factors in their place.
    fn factors(&self, axis: Axis) -> VecDeque<Axis> {
        self.flat(axis, |form| if let Form::Product(parts) = form { Some(parts) } else { None })
    }

    /// The segments of an axis, those of segments in their place.
    fn segments(&self, axis: Axis) -> VecDeque<Axis> {
        self.flat(axis, |form| if let Form::Concat(parts) = form { Some(parts) } else { None })
    }

    fn flat(&self, axis: Axis, parts: impl Fn(&Form) -> Option<&[Axis]>) -> VecDeque<Axis> {
        let (mut left, mut flat) = (vec![axis], VecDeque::new());
        while let Some(axis) = left.pop() {
            let axis = self.find(axis);
            match parts(&self.entries[axis.0 as usize].form) {
                Some(parts) => left.extend(parts.iter().rev()),
                None => flat.push_back(axis),
            }
        }
        flat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_dimensions() {
        let mut space = Space::default();
        let [a, b, c] = [2, 3, 2].map(|e| space.dim(e));
        let product = space.product(&[a, b]);
        let all = space.concat(&[product, c]);
        let chosen = HashMap::from([(b, vec![2, 0]), (c, vec![1, 0])]);
        assert_eq!(space.select(all, &chosen), [2, 0, 5, 3, 7, 6]);
    }
}
