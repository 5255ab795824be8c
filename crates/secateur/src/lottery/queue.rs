//! Work side by side, some of it after other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use secateur_model::{Error, Result};

/// What is known of the work.
struct State {
    /// Begun, and done, by place.
    begun: Vec<bool>,
    done: Vec<bool>,
    /// The first failure: nothing is begun after it.
    failed: Option<Error>,
}

/// Does all pieces of work, `workers` at a time, each on one thread: its parallel parts have no other. `after[i]` is the piece
/// that comes before the i-th; of those that can begin, the first does. After a failure the flag that each piece gets is
/// raised, and it should end soon.
///
/// # Errors
/// The first failure of a piece; `Internal` where a thread cannot be started.
pub(super) fn run(
    after: &[Option<usize>],
    workers: usize,
    work: &(dyn Fn(usize, &AtomicBool) -> Result<()> + Sync),
) -> Result<()> {
    let count = after.len();
    let state = Mutex::new(State { begun: vec![false; count], done: vec![false; count], failed: None });
    let (changed, stop) = (Condvar::new(), AtomicBool::new(false));
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let next = || {
        let mut state = lock();
        loop {
            if state.failed.is_some() || state.begun.iter().all(|begun| *begun) {
                return None;
            }
            let is_ready = |&i: &usize| !state.begun[i] && after[i].is_none_or(|before| state.done[before]);
            if let Some(i) = (0..count).find(is_ready) {
                state.begun[i] = true;
                return Some(i);
            }
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    };
    let labour = || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = match pool {
            Ok(pool) => pool,
            Err(error) => {
                let error = Error::internal(format!("no thread can be started: {error}"));
                lock().failed.get_or_insert(error);
                return;
            }
        };
        while let Some(i) = next() {
            let result = pool.install(|| work(i, &stop));
            let mut state = lock();
            state.done[i] = true;
            if let Err(error) = result {
                state.failed.get_or_insert(error);
                stop.store(true, Ordering::Relaxed);
            }
            drop(state);
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, count.max(1)) {
            scope.spawn(labour);
        }
    });
    match lock().failed.take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_waits_for_what_comes_before_it() {
        let after = [None, Some(0), Some(1), None, Some(3), Some(1)];
        for workers in [1, 2, 4] {
            let order = Mutex::new(Vec::new());
            run(&after, workers, &|i, _| {
                assert_eq!(rayon::current_num_threads(), 1);
                order.lock().unwrap().push(i);
                Ok(())
            })
            .unwrap();
            let order = order.into_inner().unwrap();
            let place = |i: usize| order.iter().position(|found| *found == i).unwrap();
            assert_eq!(order.len(), after.len());
            for (i, before) in after.iter().enumerate() {
                assert!(before.is_none_or(|before| place(before) < place(i)), "{order:?}");
            }
        }
    }

    #[test]
    fn the_first_failure_ends_the_rest() {
        let begun = Mutex::new(Vec::new());
        let error = run(&[None, None, Some(0), Some(2)], 2, &|i, stop| {
            begun.lock().unwrap().push(i);
            match i {
                0 => Err(Error::input("it failed")),
                _ => {
                    while !stop.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                    Ok(())
                }
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "it failed");
        // The other worker may come too late to begin anything.
        let begun = begun.into_inner().unwrap();
        assert!(begun.contains(&0) && begun.iter().all(|&i| i < 2), "{begun:?}");
    }
}
