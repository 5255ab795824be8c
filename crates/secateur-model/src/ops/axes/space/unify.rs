//! Making two axes the same: segments are cut at common points, factors at common products.

use std::collections::VecDeque;

use super::{Axis, Fixed, Form, Space};

/// How an axis is divided.
#[derive(Clone, Copy)]
enum Cut {
    Product,
    Concat,
}

impl Space {
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

#[cfg(test)]
mod tests {
    use super::super::View;
    use super::*;
    use crate::NodeId;

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
}
