//! Copying by a list of positions an axis: gathering, padding, cropping and resizing by nearest.

use super::cells::{Cell, len_of, room, with_cell};
use crate::{Result, Tensor};

/// Stands in a list of positions for the fill value.
pub(super) const FILL: usize = usize::MAX;

/// Which positions of an axis the output takes; [`FILL`] for none. `None` takes the axis as it is.
pub(super) type Positions = Option<Vec<usize>>;

/// What a stretch of the innermost list does.
enum Run {
    Fill(usize),
    /// From a position on, so many neighbours.
    Copy(usize, usize),
    /// A position, so many times.
    Repeat(usize, usize),
}

/// The output whose element at (i₀, i₁, …) is the tensor's at (positions₀[i₀], positions₁[i₁], …),
/// or the fill value where one of these is [`FILL`].
///
/// # Errors
/// Where there is no memory for it, or the fill value is of another type.
pub(super) fn pick(tensor: &Tensor, positions: &[Positions], fill: Option<&Tensor>) -> Result<Tensor> {
    let dtype = tensor.dtype();
    let shape: Vec<usize> = positions
        .iter()
        .zip(tensor.shape())
        .map(|(positions, &extent)| positions.as_ref().map_or(extent, Vec::len))
        .collect();
    if positions.iter().all(Option::is_none) {
        return Ok(tensor.clone());
    }
    with_cell!(dtype, C => {
        let fill = fill.map_or(Ok(C::default()), C::single)?;
        let cells = pick_cells(&C::open(tensor)?, tensor.shape(), positions, fill, len_of(&shape)?)?;
        C::close(dtype, shape, cells)
    })
}

fn pick_cells<C: Cell>(
    cells: &[C],
    shape: &[usize],
    positions: &[Positions],
    fill: C,
    len: usize,
) -> Result<Vec<C>> {
    let mut out = room(len)?;
    if len == 0 {
        return Ok(out);
    }
    // Axes behind the last list are moved as blocks; axes before the first are one.
    let inner = positions.iter().rposition(Option::is_some).unwrap_or(0);
    let mut levels = Vec::new();
    for (axis, list) in positions[..=inner].iter().enumerate() {
        let list = list.clone().unwrap_or_else(|| (0..shape[axis]).collect());
        levels.push(Level { list, block: shape[axis + 1..].iter().product(), made: 0 });
    }
    let mut made = shape[inner + 1..].iter().product();
    for level in levels.iter_mut().rev() {
        level.made = made;
        made *= level.list.len();
    }
    let innermost = Innermost::new(&levels[inner].list, levels[inner].block, shape[inner]);
    let walk = Walk { cells, fill, levels: &levels, innermost };
    walk.level(0, 0, &mut out);
    Ok(out)
}

/// One axis of a walk: its list, the elements of one of its positions in the input, and in the output.
struct Level {
    list: Vec<usize>,
    block: usize,
    made: usize,
}

/// What to do along the innermost list.
enum Innermost {
    /// The whole axis, each position so many times.
    Each(usize),
    /// Stretches of blocks.
    Runs(Vec<Run>),
    /// Single elements here and there.
    Scattered,
}

impl Innermost {
    fn new(list: &[usize], block: usize, extent: usize) -> Self {
        let times = list.len().checked_div(extent).unwrap_or(0);
        if block == 1 && times > 1 && list.len() == times * extent {
            let mut expected = 0..list.len();
            if list.iter().all(|&position| expected.next().is_some_and(|i| i / times == position)) {
                return Innermost::Each(times);
            }
        }
        let runs = runs(list);
        if block == 1 && runs.len() * 3 > list.len() { Innermost::Scattered } else { Innermost::Runs(runs) }
    }
}

struct Walk<'a, C> {
    cells: &'a [C],
    fill: C,
    levels: &'a [Level],
    innermost: Innermost,
}

impl<C: Cell> Walk<'_, C> {
    fn level(&self, at: usize, base: usize, out: &mut Vec<C>) {
        let level = &self.levels[at];
        if at + 1 == self.levels.len() {
            return self.row(level, base, out);
        }
        let mut before = None;
        for &position in &level.list {
            if position == FILL {
                out.extend(std::iter::repeat_n(&self.fill, level.made).cloned());
            } else if before == Some(position) {
                out.extend_from_within(out.len() - level.made..);
            } else {
                self.level(at + 1, base + position * level.block, out);
            }
            before = Some(position);
        }
    }

    fn row(&self, level: &Level, base: usize, out: &mut Vec<C>) {
        let block = level.block;
        match &self.innermost {
            Innermost::Each(times) => {
                let row = &self.cells[base..base + level.list.len() / times];
                let start = out.len();
                out.resize(start + level.list.len(), C::default());
                match times {
                    2 => repeat_each::<C, 2>(row, &mut out[start..]),
                    4 => repeat_each::<C, 4>(row, &mut out[start..]),
                    _ => {
                        for (copies, cell) in out[start..].chunks_exact_mut(*times).zip(row) {
                            copies.fill(cell.clone());
                        }
                    }
                }
            }
            Innermost::Scattered => out.extend(level.list.iter().map(|&position| match position {
                FILL => self.fill.clone(),
                position => self.cells[base + position].clone(),
            })),
            Innermost::Runs(runs) => {
                for run in runs {
                    match *run {
                        Run::Fill(n) => out.extend(std::iter::repeat_n(&self.fill, n * block).cloned()),
                        Run::Copy(start, n) => {
                            out.extend_from_slice(&self.cells[base + start * block..][..n * block]);
                        }
                        Run::Repeat(start, n) if block == 1 => {
                            out.extend(std::iter::repeat_n(&self.cells[base + start], n).cloned());
                        }
                        Run::Repeat(start, n) => {
                            for _ in 0..n {
                                out.extend_from_slice(&self.cells[base + start * block..][..block]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A known number of copies lets the compiler use vector instructions.
fn repeat_each<C: Cell, const N: usize>(row: &[C], out: &mut [C]) {
    for (copies, cell) in out.as_chunks_mut::<N>().0.iter_mut().zip(row) {
        *copies = std::array::from_fn(|_| cell.clone());
    }
}

fn runs(list: &[usize]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &position in list {
        match runs.last_mut() {
            Some(Run::Fill(n)) if position == FILL => *n += 1,
            Some(Run::Copy(start, n)) if position == start.wrapping_add(*n) => *n += 1,
            Some(Run::Repeat(start, n)) if position == *start => *n += 1,
            Some(last @ Run::Copy(..)) if matches!(*last, Run::Copy(start, 1) if start == position) => {
                *last = Run::Repeat(position, 2);
            }
            _ if position == FILL => runs.push(Run::Fill(1)),
            _ => runs.push(Run::Copy(position, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_mean_what_they_say() {
        let tensor = Tensor::new([3, 3, 3], (0..27i32).collect::<Vec<_>>()).unwrap();
        let lists: [Positions; 9] = [
            None,
            Some(vec![0, 0, 1, 1]),
            Some(vec![0, 0, 0, 1, 1, 1, 2, 2, 2]),
            Some(vec![0, 1]),
            Some(vec![1, 1, 0, FILL]),
            Some(vec![FILL, FILL, 0, 1, 1, 1, FILL, 1, 0]),
            Some(vec![]),
            Some(vec![0, 0, 1, 1, 2, 2]),
            Some(vec![0]),
        ];
        let fill = Tensor::scalar(-1i32);
        let data: &[i32] = tensor.values().unwrap();
        for a in &lists {
            for b in &lists {
                for c in &lists {
                    let picked = pick(&tensor, &[a.clone(), b.clone(), c.clone()], Some(&fill)).unwrap();
                    let list = |l: &Positions, n: usize| l.clone().unwrap_or_else(|| (0..n).collect());
                    let mut expected = Vec::new();
                    for i in list(a, 3) {
                        for j in list(b, 3) {
                            for k in list(c, 3) {
                                let inside = i != FILL && j != FILL && k != FILL;
                                expected.push(if inside { data[i * 9 + j * 3 + k] } else { -1 });
                            }
                        }
                    }
                    assert_eq!(picked.values::<i32>().unwrap(), expected, "{a:?} {b:?} {c:?}");
                }
            }
        }
    }
}
