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
        // Whoever looks at the axis walks through these.
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

    /// Gives an axis another form; what is known of it holds for that too.
    fn bind(&mut self, axis: Axis, form: Form) {
        let entry = &mut self.entries[axis.0 as usize];
        let (fixed, normalised) = (entry.fixed, entry.normalised);
        let parts: Vec<Axis> = match &form {
            Form::Same(other) => vec![*other],
            Form::Product(parts) | Form::Concat(parts) => parts.to_vec(),
            Form::Dim => Vec::new(),
        };
        entry.form = form;
        for part in parts {
            if let Some(why) = fixed {
                self.fix(part, why);
            }
            if let Some(node) = normalised {
                self.normalise(part, node);
            }
        }
    }

    /// Makes two axes the same. What has no common cut becomes fixed, with `why` as the reason.
    pub fn unify(&mut self, a: Axis, b: Axis, why: Fixed) {
        let mut work = vec![(a, b)];
        while let Some((a, b)) = work.pop() {
            self.steps += 1;
            if self.gave_up() {
                return;
            }
            let (a, b) = (self.shorten(a), self.shorten(b));
            if a == b {
                continue;
            }
            if self.extent(a) == 0 && self.extent(b) == 0 {
                continue;
            }
            if self.extent(a) != self.extent(b) {
                self.fix(a, why);
                self.fix(b, why);
                continue;
            }
            let form = |axis: Axis| &self.entries[axis.0 as usize].form;
            let regular = match (form(a), form(b)) {
                (Form::Dim, _) => true,
                (_, Form::Dim) => {
                    self.bind(b, Form::Same(a));
                    continue;
                }
                (Form::Product(_), Form::Product(_)) => self.cut_products(a, b, why, &mut work),
                _ => self.cut_concats(a, b, why, &mut work),
            };
            if regular {
                self.bind(a, Form::Same(b));
            } else {
                self.fix(a, why);
                self.fix(b, why);
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

    /// Cuts two products at common products; false where nothing of them can be.
    fn cut_products(&mut self, a: Axis, b: Axis, why: Fixed, work: &mut Vec<(Axis, Axis)>) -> bool {
        let (mut a, mut b) = (self.factors(a), self.factors(b));
        self.steps += a.len() + b.len();
        self.cut(&mut a, &mut b, why, work, Cut::Product)
    }

    /// Cuts two axes, at least one of them a concatenation, at common points.
    fn cut_concats(&mut self, a: Axis, b: Axis, why: Fixed, work: &mut Vec<(Axis, Axis)>) -> bool {
        let (mut a, mut b) = (self.segments(a), self.segments(b));
        self.steps += a.len() + b.len();
        self.cut(&mut a, &mut b, why, work, Cut::Concat)
    }

    fn cut(
        &mut self,
        a: &mut VecDeque<Axis>,
        b: &mut VecDeque<Axis>,
        why: Fixed,
        work: &mut Vec<(Axis, Axis)>,
        kind: Cut,
    ) -> bool {
        while let (Some(x), Some(y)) = (a.pop_front(), b.pop_front()) {
            self.steps += 1;
            if self.gave_up() {
                return false;
            }
            let (from_x, from_y) = (self.extent(x), self.extent(y));
            if from_x == from_y {
                work.push((x, y));
                continue;
            }
            let (small, large) = if from_x < from_y { (x, y) } else { (y, x) };
            let at = self.extent(small);
            let split = match kind {
                Cut::Product => self.split_product(large, at, work),
                Cut::Concat => self.split_concat(large, at),
            };
            if let Some((head, rest)) = split {
                work.push((small, head));
                if from_x < from_y { &mut *b } else { &mut *a }.push_front(rest);
                continue;
            }
            // No common cut: what lies up to the next one is fixed.
            let join = |all: usize, next: usize| match kind {
                Cut::Product => all.saturating_mul(next),
                Cut::Concat => all.saturating_add(next),
            };
            let (mut up_to_x, mut up_to_y, mut between) = (from_x, from_y, vec![x, y]);
            while up_to_x != up_to_y {
                let (list, up_to) =
                    if up_to_x < up_to_y { (&mut *a, &mut up_to_x) } else { (&mut *b, &mut up_to_y) };
                let Some(next) = list.pop_front() else { return false };
                *up_to = join(*up_to, self.extent(next));
                between.push(next);
            }
            between.into_iter().for_each(|axis| self.fix(axis, why));
        }
        a.is_empty() && b.is_empty()
    }

    /// Splits an axis into a slower factor of `head` elements and a faster one.
    fn split_product(
        &mut self,
        axis: Axis,
        head: usize,
        work: &mut Vec<(Axis, Axis)>,
    ) -> Option<(Axis, Axis)> {
        let axis = self.shorten(axis);
        let extent = self.extent(axis);
        if head == 0 || !extent.is_multiple_of(head) {
            return None;
        }
        let rest = extent / head;
        if head == 1 || rest == 1 {
            let one = self.dim(1);
            return Some(if head == 1 { (one, axis) } else { (axis, one) });
        }
        match self.entries[axis.0 as usize].form.clone() {
            Form::Same(_) => None,
            Form::Dim => {
                let (slow, fast) = (self.dim(head), self.dim(rest));
                self.bind(axis, Form::Product([slow, fast].into()));
                Some((slow, fast))
            }
            Form::Product(_) => {
                let mut factors = self.factors(axis);
                self.steps += factors.len();
                let (mut slow, mut product) = (Vec::new(), 1);
                while product < head {
                    let factor = factors.pop_front()?;
                    let extent = self.extent(factor);
                    if (head / product).is_multiple_of(extent) {
                        slow.push(factor);
                        product *= extent;
                    } else {
                        let (first, second) = self.split_product(factor, head / product, work)?;
                        slow.push(first);
                        factors.push_front(second);
                        product = head;
                    }
                }
                Some((self.product(&slow), self.product(&Vec::from(factors))))
            }
            Form::Concat(_) => {
                let segments = self.segments(axis);
                self.steps += segments.len();
                if segments.iter().any(|&s| !self.extent(s).is_multiple_of(rest)) {
                    return None;
                }
                let mut slow = Vec::new();
                let mut fast = None;
                for segment in segments {
                    let (first, second) = self.split_product(segment, self.extent(segment) / rest, work)?;
                    slow.push(first);
                    work.push((*fast.get_or_insert(second), second));
                }
                Some((self.concat(&slow), fast?))
            }
        }
    }

    /// Splits an axis into a segment of `at` elements and the rest.
    fn split_concat(&mut self, axis: Axis, at: usize) -> Option<(Axis, Axis)> {
        let axis = self.shorten(axis);
        let extent = self.extent(axis);
        if at == 0 || at >= extent {
            return None;
        }
        match self.entries[axis.0 as usize].form.clone() {
            Form::Same(_) => None,
            Form::Dim => {
                let (first, second) = (self.dim(at), self.dim(extent - at));
                self.bind(axis, Form::Concat([first, second].into()));
                Some((first, second))
            }
            Form::Concat(_) => {
                let mut segments = self.segments(axis);
                self.steps += segments.len();
                let (mut before, mut sum) = (Vec::new(), 0);
                while sum < at {
                    let segment = segments.pop_front()?;
                    let extent = self.extent(segment);
                    if extent <= at - sum {
                        before.push(segment);
                        sum += extent;
                    } else {
                        let (first, second) = self.split_concat(segment, at - sum)?;
                        before.push(first);
                        segments.push_front(second);
                        sum = at;
                    }
                }
                Some((self.concat(&before), self.concat(&Vec::from(segments))))
            }
            Form::Product(_) => {
                let mut factors = self.factors(axis);
                let slowest = factors.pop_front()?;
                let each = extent / self.extent(slowest).max(1);
                if !at.is_multiple_of(each) {
                    return None;
                }
                let (first, second) = self.split_concat(slowest, at / each)?;
                let rest = Vec::from(factors);
                let mut with = |head: Axis| self.product(&[&[head], &rest[..]].concat());
                Some((with(first), with(second)))
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Cut {
    Product,
    Concat,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHY: Fixed = Fixed::Irregular(NodeId(0));

    /// An axis in words: extents of dimensions, fixed ones in brackets.
    fn show(space: &Space, axis: Axis) -> String {
        let join =
            |parts: &[Axis], by: &str| parts.iter().map(|&p| show(space, p)).collect::<Vec<_>>().join(by);
        match space.view(axis) {
            View::Dim if space.fixed(axis).is_some() => format!("({})", space.extent(axis)),
            View::Dim => space.extent(axis).to_string(),
            View::Product(parts) => join(parts, "·"),
            View::Concat(parts) => format!("[{}]", join(parts, "|")),
        }
    }

    #[test]
    fn factors_are_cut_at_common_products() {
        let mut space = Space::default();
        let of = |space: &mut Space, extents: &[usize]| {
            let dims: Vec<Axis> = extents.iter().map(|&e| space.dim(e)).collect();
            space.product(&dims)
        };
        let (a, b) = (of(&mut space, &[4, 6]), of(&mut space, &[2, 12]));
        space.unify(a, b, WHY);
        assert_eq!((show(&space, a), show(&space, b)), ("2·2·6".into(), "2·2·6".into()));
        // 2·3 and 3·2 have no common cut, but the 5 around them is.
        let (a, b) = (of(&mut space, &[5, 2, 3, 7]), of(&mut space, &[5, 3, 2, 7]));
        space.unify(a, b, WHY);
        assert_eq!(show(&space, a), "5·(3)·(2)·7");
    }

    #[test]
    fn segments_are_cut_at_common_points() {
        let mut space = Space::default();
        let [a, b, c] = [6, 2, 4].map(|e| space.dim(e));
        let joined = space.concat(&[b, c]);
        space.unify(a, joined, WHY);
        assert_eq!(show(&space, a), "[2|4]");
        let [d, e] = [3, 3].map(|e| space.dim(e));
        let other = space.concat(&[d, e]);
        space.unify(other, a, WHY);
        assert_eq!(show(&space, a), "[2|[1|3]]");
    }

    #[test]
    fn packed_projections_share_heads() {
        // A weight of 3·(2·4) outputs is reshaped to three stacks of two heads, and the stacks are taken apart.
        let mut space = Space::default();
        let packed = space.dim(24);
        let [three, heads, width] = [3, 2, 4].map(|e| space.dim(e));
        let stacks = space.product(&[three, heads, width]);
        space.unify(packed, stacks, WHY);
        let ones = [1, 1, 1].map(|e| space.dim(e));
        let joined = space.concat(&ones);
        space.unify(three, joined, WHY);
        assert_eq!(show(&space, packed), "[1|1|1]·2·4");
        // Segments of a concatenation that a reshape sees as rows of one width are the same.
        let [q, k] = [8, 8].map(|e| space.dim(e));
        let both = space.concat(&[q, k]);
        let [two, eight] = [2, 8].map(|e| space.dim(e));
        let rows = space.product(&[two, eight]);
        space.unify(both, rows, WHY);
        assert_eq!(space.find(q), space.find(k));
        assert_eq!(space.find(q), space.find(eight));
    }

    #[test]
    fn a_chain_without_end_is_given_up() {
        // Each value is joined to all that came before it, twice.
        let mut space = Space::default();
        let mut all = space.dim(2);
        for _ in 0..62 {
            all = space.concat(&[all, all]);
        }
        let other = space.dim(space.extent(all));
        space.unify(all, other, WHY);
        assert_eq!((space.fixed(all), space.dims(all)), (Some(Fixed::Limit), vec![space.find(all)]));
    }

    #[test]
    fn what_is_fixed_stays_fixed_in_all_its_parts() {
        let mut space = Space::default();
        let a = space.dim(6);
        space.fix(a, WHY);
        let (b, c) = (space.dim(2), space.dim(3));
        let product = space.product(&[b, c]);
        space.unify(a, product, WHY);
        assert!(space.fixed(b).is_some() && space.fixed(c).is_some());
    }

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
