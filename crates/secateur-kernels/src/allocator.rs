//! Memory whose vectors do not straddle cache lines.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, with blocks of a page and more aligned to cache lines (64 bytes).
///
/// Values between layers are plain `Vec<f32>`, which the system's allocator aligns to 16 bytes: then most vectors of 32
/// or 64 bytes are read from two cache lines. A program that runs or trains models sets it as its global allocator:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: secateur_kernels::LineAllocator = secateur_kernels::LineAllocator;
/// let values = vec![0f32; 2000];
/// assert!(values.as_ptr().cast::<u8>().addr().is_multiple_of(64));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct LineAllocator;

/// Bytes from which on blocks are aligned.
const LEAST: usize = 4096;

/// Bytes of a cache line.
const LINE: usize = 64;

impl LineAllocator {
    /// The layout that the system is asked for: a function of the layout alone, so that a block is freed as it was made.
    fn layout(layout: Layout) -> Layout {
        if layout.size() < LEAST { layout } else { layout.align_to(LINE).unwrap_or(layout) }
    }
}

// SAFETY: the system's allocator gets the same layout for a block each time, one of the same size and at least the same
// alignment. Blocks that grow or shrink are moved by the trait's own `realloc`, which is made of these.
unsafe impl GlobalAlloc for LineAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is the caller's, so it is not 0.
        unsafe { System.alloc(Self::layout(layout)) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the block was made with this layout.
        unsafe { System.dealloc(ptr, Self::layout(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(Self::layout(layout)) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size().max(size) < LEAST {
            // SAFETY: both blocks are of the system's own alignment.
            return unsafe { System.realloc(ptr, layout, size) };
        }
        // SAFETY: the caller guarantees that the size is not 0 and fits the alignment.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(ptr, new, layout.size().min(size));
                self.dealloc(ptr, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_blocks_begin_at_cache_lines_and_keep_their_content() {
        for (size, next) in [(100, 200), (100, 5000), (5000, 100), (5000, 1 << 20), (1 << 20, 4096)] {
            let layout = Layout::from_size_align(size, 4).unwrap();
            // SAFETY: sizes are not 0, and each block is freed with its layout.
            unsafe {
                let block = LineAllocator.alloc_zeroed(layout);
                assert!(!block.is_null() && (size < LEAST || block.addr().is_multiple_of(LINE)));
                assert!((0..size).all(|i| *block.add(i) == 0));
                (0..size).for_each(|i| *block.add(i) = i as u8);
                let block = LineAllocator.realloc(block, layout, next);
                assert!(!block.is_null() && (next < LEAST || block.addr().is_multiple_of(LINE)));
                assert!((0..size.min(next)).all(|i| *block.add(i) == i as u8));
                LineAllocator.dealloc(block, Layout::from_size_align(next, 4).unwrap());
            }
        }
    }
}
