//! Tensors in padded planes: with zeros around each map, the windows of a convolution are shifts by constant distances.

use std::sync::Arc;

use crate::simd::{Isa, Kernel, MAX_LANES, Simd};
use crate::size;
use crate::threads::{self, SharedMut};

/// Elements up to which planes of several samples are joined to one row: longer products of vectors cost less per element.
const ROW: usize = 2400;

/// How the maps of a tensor `[batch, channels, positions…]` lie in memory.
///
/// A map of `size` has a plane of `extents`, of which it fills the beginning of each axis; the rest is zero. What is read
/// before a row's first element is then the zero behind the row before, and so along each axis. A row is the planes of a
/// channel for a block of samples; the rows of all channels follow one another, block by block. In front of the first row
/// and behind the last one there is a margin of zeros.
#[derive(Clone, Debug, PartialEq)]
pub struct Planes {
    batch: usize,
    size: [usize; 3],
    extents: [usize; 3],
    block: usize,
    pitch: usize,
    margin: usize,
    /// For each element of a row: 1 where it is an element of a map, else 0.
    inside: Arc<[f32]>,
}

impl Planes {
    /// Maps without padding, as tensors have them.
    ///
    /// # Panics
    /// If the size has more than three axes.
    pub fn plain(batch: usize, size: &[usize]) -> Planes {
        let size = three(size);
        let inside = Arc::from([]);
        Planes { batch, size, extents: size, block: 1, pitch: size::of(&size), margin: 0, inside }
    }

    /// Maps in planes of `extents`, which are no smaller, with at least `reach` zeros in front of the first row.
    ///
    /// # Panics
    /// If the extents are smaller than the size.
    pub fn padded(batch: usize, size: &[usize], extents: [usize; 3], reach: usize) -> Planes {
        let size = three(size);
        assert!(size.iter().zip(&extents).all(|(size, extent)| size <= extent), "{size:?} in {extents:?}");
        let plane = size::of(&extents);
        let fits = |block: &usize| batch.is_multiple_of(*block) && size::of(&[*block, plane]) <= ROW;
        let block = (1..=batch.min(ROW)).rev().find(fits).unwrap_or(1);
        let pitch = size::of(&[block, plane]).next_multiple_of(MAX_LANES);
        let margin = size::sum(&[reach.next_multiple_of(MAX_LANES), MAX_LANES]);
        let mut inside = vec![0.0; pitch];
        let [_, e1, e2] = extents;
        for (at, inside) in inside.iter_mut().enumerate().take(block * plane) {
            let place = [at % plane / (e1 * e2), at / e2 % e1, at % e2];
            if place.iter().zip(&size).all(|(place, size)| place < size) {
                *inside = 1.0;
            }
        }
        Planes { batch, size, extents, block, pitch, margin, inside: inside.into() }
    }

    /// The length of a tensor.
    pub fn len(&self, channels: usize) -> usize {
        size::sum(&[size::of(&[self.blocks(), channels, self.pitch]), 2 * self.margin])
    }

    /// Elements of a channel.
    pub fn count(&self) -> usize {
        size::of(&[self.batch, size::of(&self.size)])
    }

    /// Blocks of samples.
    pub fn blocks(&self) -> usize {
        self.batch / self.block
    }

    /// From a row to the next one.
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    pub(crate) fn block(&self) -> usize {
        self.block
    }

    pub(crate) fn extents(&self) -> [usize; 3] {
        self.extents
    }

    /// Zeros in front of the first row and behind the last one.
    pub(crate) fn margin(&self) -> usize {
        self.margin
    }

    /// For each element of a row 1 where it belongs to a map, else 0; `None` where all do.
    pub(crate) fn inside(&self) -> Option<&[f32]> {
        (self.margin > 0).then_some(&self.inside[..])
    }

    /// Where the map of a sample and channel begins.
    pub(crate) fn at(&self, channels: usize, sample: usize, channel: usize) -> usize {
        let row = sample / self.block * channels + channel;
        self.margin + row * self.pitch + sample % self.block * self.plane()
    }

    fn plane(&self) -> usize {
        self.extents.iter().product()
    }

    /// Sets the margins to zero.
    pub(crate) fn clear_margins(&self, out: &mut [f32]) {
        let len = out.len();
        out[..self.margin].fill(0.0);
        out[len - self.margin..].fill(0.0);
    }

    /// Copies a tensor into other planes.
    fn copy(&self, channels: usize, from: &[f32], to_planes: &Planes, to: &mut [f32]) {
        assert!(
            from.len() == self.len(channels) && to.len() == to_planes.len(channels),
            "planes of a tensor"
        );
        assert!(self.batch == to_planes.batch && self.size == to_planes.size, "planes of one size");
        if to_planes.margin > 0 {
            to.fill(0.0);
        }
        let shared = SharedMut::new(to);
        let (whole, step) = (Window::whole(self.size), to_planes.plane());
        threads::ranges(self.batch * channels, self.plane(), |maps| {
            for map in maps {
                let (sample, channel) = (map / channels, map % channels);
                let from = &from[self.at(channels, sample, channel)..][..self.plane()];
                // SAFETY: each map is written once.
                let to = unsafe { shared.slice(to_planes.at(channels, sample, channel), step) };
                whole.gather(self.extents, from, to_planes.extents, to);
            }
        });
    }

    /// Copies a tensor `[batch, channels, positions…]` into planes.
    ///
    /// # Panics
    /// If the lengths don't fit.
    pub fn pack(&self, channels: usize, x: &[f32], out: &mut [f32]) {
        Planes::plain(self.batch, &self.size).copy(channels, x, self, out);
    }

    /// Copies planes to a tensor `[batch, channels, positions…]`.
    ///
    /// # Panics
    /// If the lengths don't fit.
    pub fn unpack(&self, channels: usize, planes: &[f32], out: &mut [f32]) {
        self.copy(channels, planes, &Planes::plain(self.batch, &self.size), out);
    }
}

/// The axes, extended to three by leading ones of size 1.
fn three(size: &[usize]) -> [usize; 3] {
    assert!(size.len() <= 3, "at most 3 spatial axes, found {}", size.len());
    let mut out = [1; 3];
    out[3 - size.len()..].copy_from_slice(size);
    out
}

/// Every `stride`-th element of a map along each axis, and where these lie in a plane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The first element.
    pub(crate) start: [usize; 3],
    pub(crate) stride: [usize; 3],
    /// Where the first element lies in the plane.
    pub(crate) place: [usize; 3],
    /// How many there are.
    pub(crate) count: [usize; 3],
}

impl Window {
    /// All elements of a map, at the beginning of a plane.
    pub(crate) fn whole(size: [usize; 3]) -> Window {
        Window { start: [0; 3], stride: [1; 3], place: [0; 3], count: size }
    }

    /// Whether a map's elements lie in the plane as they do in the map.
    pub(crate) fn is_whole(&self) -> bool {
        self.start == [0; 3] && self.stride == [1; 3] && self.place == [0; 3]
    }

    /// Copies the elements from a map to a plane.
    pub(crate) fn gather(&self, map: [usize; 3], from: &[f32], plane: [usize; 3], to: &mut [f32]) {
        let step = [self.stride[1] * map[2], self.stride[2]];
        self.slices(map, plane, |start, place, rows, count| {
            let (from, to) = (&from[start..], &mut to[place..]);
            copy_rows(Rows { from, step, to, to_step: [plane[2], 1], rows, count, add: false });
        });
    }

    /// Copies the elements from a plane to a map, or adds them to those that are there.
    pub(crate) fn scatter(
        &self,
        plane: [usize; 3],
        from: &[f32],
        map: [usize; 3],
        to: &mut [f32],
        add: bool,
    ) {
        let to_step = [self.stride[1] * map[2], self.stride[2]];
        self.slices(map, plane, |start, place, rows, count| {
            let (from, to) = (&from[place..], &mut to[start..]);
            copy_rows(Rows { from, step: [plane[2], 1], to, to_step, rows, count, add });
        });
    }

    /// Calls `f(start, place, rows, count)` for each slice: where its first element is in the map and in the plane, and how many
    /// rows of how many elements there are.
    fn slices(&self, map: [usize; 3], plane: [usize; 3], mut f: impl FnMut(usize, usize, usize, usize)) {
        let [slices, rows, count] = self.count;
        if rows == 0 || count == 0 {
            return;
        }
        for slice in 0..slices {
            let [s0, s1, s2] = self.start;
            let start = ((s0 + slice * self.stride[0]) * map[1] + s1) * map[2] + s2;
            let [p0, p1, p2] = self.place;
            f(start, ((p0 + slice) * plane[1] + p1) * plane[2] + p2, rows, count);
        }
    }
}

/// Rows of `count` values to copy or to add. Steps are those from a row to the next one, and from a value to the next one.
struct Rows<'a> {
    from: &'a [f32],
    step: [usize; 2],
    to: &'a mut [f32],
    to_step: [usize; 2],
    rows: usize,
    count: usize,
    add: bool,
}

fn copy_rows(rows: Rows<'_>) {
    let last = |step: [usize; 2]| (rows.rows - 1) * step[0] + (rows.count - 1) * step[1];
    assert!(rows.rows > 0 && rows.count > 0, "rows to copy");
    assert!(last(rows.step) < rows.from.len() && last(rows.to_step) < rows.to.len(), "rows inside of planes");
    if rows.step[1] == 1 && rows.to_step[1] == 1 {
        return Isa::best().run(rows);
    }
    // Compiled for vectors, this would become gathers and scatters, which take longer than single values.
    let Rows { from, step, to, to_step, rows, count, add } = rows;
    for row in 0..rows {
        let from = from[row * step[0]..].iter().step_by(step[1]).take(count);
        let to = to[row * to_step[0]..].iter_mut().step_by(to_step[1]);
        if add {
            to.zip(from).for_each(|(to, from)| *to += *from);
        } else {
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
    }
}

impl Kernel for Rows<'_> {
    type Output = ();
    /// Copies contiguous rows. They are short: a call to copy each would take longer than the copy.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { from, step, to, to_step, rows, count, add } = self;
        for row in 0..rows {
            let from = from.as_ptr().wrapping_add(row * step[0]);
            let to = to.as_mut_ptr().wrapping_add(row * to_step[0]);
            for i in (0..count).step_by(S::LANES) {
                let lanes = S::LANES.min(count - i);
                // SAFETY: all values of the rows lie in the slices, as `copy_rows` has checked.
                unsafe {
                    let mut v = s.load_n(from.add(i), lanes);
                    if add {
                        v = s.add(v, s.load_n(to.add(i), lanes));
                    }
                    s.store_n(to.add(i), v, lanes);
                }
            }
        }
    }
}

/// Values where an element of a row belongs to a map, by [`Planes::inside`], 0 elsewhere.
#[inline(always)]
pub(crate) fn keep<S: Simd>(s: S, inside: S::V, v: S::V) -> S::V {
    s.select(s.eq(inside, s.zero()), s.zero(), v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    #[test]
    fn tensors_come_back_from_planes_that_are_zero_around_them() {
        let mut rng = Rng::new(51);
        for _ in 0..40 {
            let axes = 1 + rng.below(3);
            let size: Vec<usize> = (0..axes).map(|_| 1 + rng.below(9)).collect();
            let (batch, channels) = (1 + rng.below(9), 1 + rng.below(4));
            let mut extents = three(&size);
            extents.iter_mut().for_each(|extent| *extent += rng.below(3));
            let planes = Planes::padded(batch, &size, extents, rng.below(40));
            let x = rng.values(batch * channels * size.iter().product::<usize>());
            let (mut packed, mut back) = (vec![f32::NAN; planes.len(channels)], vec![f32::NAN; x.len()]);
            planes.pack(channels, &x, &mut packed);
            planes.unpack(channels, &packed, &mut back);
            assert_eq!(x, back, "{planes:?}");
            let kept = packed.iter().filter(|v| **v != 0.0).count();
            assert_eq!(kept, x.iter().filter(|v| **v != 0.0).count());
            let inside = planes.inside.iter().filter(|v| **v != 0.0).count();
            assert_eq!(inside * planes.blocks(), planes.count());
            for (i, v) in packed[planes.margin..][..planes.pitch].iter().enumerate() {
                assert!(planes.inside[i] != 0.0 || *v == 0.0, "{planes:?} at {i}");
            }
        }
    }
}
