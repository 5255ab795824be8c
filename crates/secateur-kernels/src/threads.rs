//! Distributes work over the current rayon pool, and keeps scratch memory per thread.

use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Least work of a task, in elements: a parallel region costs several microseconds.
pub(crate) const GRAIN: usize = 16 * 1024;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Number of threads that a kernel called here may use.
pub(crate) fn available() -> usize {
    if ALONE.get() { 1 } else { rayon::current_num_threads() }
}

/// Calls `f` with kernels restricted to this thread: for tasks that call kernels.
pub fn alone<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _restore = Restore(ALONE.replace(true));
    f()
}

/// Number of parallel regions running.
static REGIONS: AtomicUsize = AtomicUsize::new(0);

/// Number of threads that wait, awake, for the next region.
static AWAKE: AtomicUsize = AtomicUsize::new(0);

/// How long threads stay awake after a region. A network's layers follow one another within microseconds, and waking a
/// thread takes as long as a small layer.
const PATIENCE: Duration = Duration::from_micros(100);

/// A parallel region. When the last one ends, the pool's other threads stay awake for a while.
struct Region;

impl Region {
    fn enter() -> Region {
        REGIONS.fetch_add(1, Ordering::AcqRel);
        Region
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let last = REGIONS.fetch_sub(1, Ordering::AcqRel) == 1;
        let Some(here) = rayon::current_thread_index().filter(|_| last) else { return };
        let others = rayon::current_num_threads() - 1;
        for _ in AWAKE.load(Ordering::Acquire)..others {
            rayon::spawn(move || stay_awake(here));
        }
    }
}

/// Spins briefly until the next region. It does no work, so a thread that runs it while waiting for others is not delayed.
/// The thread `starter`, which starts regions, returns at once.
fn stay_awake(starter: usize) {
    if rayon::current_thread_index() == Some(starter) {
        return;
    }
    AWAKE.fetch_add(1, Ordering::AcqRel);
    let start = Instant::now();
    while REGIONS.load(Ordering::Acquire) == 0 && start.elapsed() < PATIENCE {
        std::hint::spin_loop();
    }
    AWAKE.fetch_sub(1, Ordering::AcqRel);
}

/// Calls `f(i)` for each task, on the current pool's threads if `parallel`, else here and in order.
pub(crate) fn tasks(count: usize, parallel: bool, f: impl Fn(usize) + Sync + Send) {
    if count > 1 && parallel && available() > 1 {
        let _region = Region::enter();
        (0..count).into_par_iter().with_max_len(1).for_each(f);
    } else {
        (0..count).for_each(f);
    }
}

/// Splits `items` into ranges of at least [`GRAIN`] work (`work` per item) and calls `f` for each.
pub(crate) fn ranges(items: usize, work: usize, f: impl Fn(Range<usize>) + Sync + Send) {
    let most = available() * 4;
    let parts = (items.saturating_mul(work.max(1)) / GRAIN).min(items).clamp(1, most);
    tasks(parts, true, |i| f(split(items, parts, i)));
}

/// The `i`-th of `parts` nearly equal ranges of `0..items`.
pub fn split(items: usize, parts: usize, i: usize) -> Range<usize> {
    items * i / parts..items * (i + 1) / parts
}

/// Splits `out` between whole items of `len` elements; `f(first, items)` gets the index of its first item.
pub(crate) fn chunks<T: Send>(
    out: &mut [T],
    len: usize,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    if len == 0 || out.is_empty() {
        return;
    }
    let items = out.len() / len;
    assert_eq!(items * len, out.len(), "not a whole number of items of {len}");
    let shared = SharedMut::new(out);
    ranges(items, work, |r| {
        // SAFETY: ranges are disjoint and within the slice's items.
        let part = unsafe { shared.slice(r.start * len, r.len() * len) };
        f(r.start, part);
    });
}

/// A mutable slice of which several threads write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a, T> {
    ptr: *mut T,
    len: usize,
    life: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: parts are accessed only through unsafe functions, whose callers guarantee that they do not overlap.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        SharedMut { ptr: slice.as_mut_ptr(), len: slice.len(), life: std::marker::PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The rest of the slice after `start` elements.
    pub(crate) fn skip(self, start: usize) -> Self {
        SharedMut { ptr: self.at(start), len: self.len - start, life: self.life }
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// While the returned slice is in use, nothing else accesses these elements.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part outside of the slice");
        // SAFETY: in bounds by the assertion, exclusive by the caller's guarantee.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }

    /// The address of an element, for writes that interleave with those of other threads.
    pub(crate) fn at(&self, start: usize) -> *mut T {
        assert!(start <= self.len, "element outside of the slice");
        // SAFETY: in bounds (or one past the end) by the assertion.
        unsafe { self.ptr.add(start) }
    }
}

/// A cache line of f32.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// f32 memory aligned to cache lines, so that vectors of packed panels and tiles do not straddle lines.
#[derive(Clone, Default)]
pub struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// At least `len` zeros, in whole cache lines.
    pub fn zeroed(len: usize) -> Buffer {
        Buffer { lines: vec![Line([0.0; 16]); len.div_ceil(16)] }
    }

    /// Number of values, in whole cache lines.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.lines.len() * 16
    }

    /// All values.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: a `Line` is 16 f32 without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len()) }
    }

    /// All values, mutable.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: a `Line` is 16 f32 without padding.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len()) }
    }

    fn grow(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0.0; 16]));
        }
        &mut self.as_mut_slice()[..len]
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.len())
    }
}

thread_local! {
    static WORKSPACE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` values of scratch memory, which this thread keeps for later calls; the content is arbitrary. Nested
/// calls get separate memory.
pub(crate) fn with_workspace<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = WORKSPACE.with(|w| w.borrow_mut().pop()).unwrap_or_default();
    let result = f(buffer.grow(len));
    WORKSPACE.with(|w| w.borrow_mut().push(buffer));
    result
}
