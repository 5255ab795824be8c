//! Training batches: each epoch has the samples in another order.
//!
//! The order of an epoch depends on the seed and the epoch alone, a sample's augmentation on the seed, the epoch and the
//! sample: a training goes on at any step without the state of a generator.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use secateur_model::{Error, Result};

use super::augment::Augment;
use super::batches::{Batch, Batches, Inner};
use crate::random::Stream;

/// The batches of a training.
pub struct Epochs {
    plan: Arc<Plan>,
    ahead: Mutex<Option<Ahead>>,
}

/// Batches that are made on another thread, and the step of the next one.
struct Ahead {
    next: u64,
    batches: Receiver<Result<Batch>>,
}

struct Plan {
    inner: Arc<Inner>,
    augment: Augment,
    batch: usize,
    seed: u64,
    /// The order of the last epoch that was asked for.
    order: Mutex<Option<(u64, Arc<Vec<usize>>)>>,
}

impl Epochs {
    /// Epochs over the samples of `batches`, `batch` samples at a time. The last samples of an epoch's order that fill no
    /// batch are left out of it.
    ///
    /// # Errors
    /// `Usage` where there are fewer samples than a batch has.
    pub fn new(batches: &Batches, batch: usize, augment: Augment, seed: u64) -> Result<Self> {
        let samples = batches.samples();
        if batch == 0 || samples < batch {
            return Err(Error::usage(format!(
                "batches of {batch} samples, the training data have {samples}"
            )));
        }
        let inner = batches.inner.clone();
        let plan = Plan { inner, augment, batch, seed, order: Mutex::default() };
        Ok(Epochs { plan: Arc::new(plan), ahead: Mutex::default() })
    }

    /// How many batches an epoch has.
    pub fn len(&self) -> u64 {
        (self.plan.inner.indices.len() / self.plan.batch) as u64
    }

    /// Whether an epoch has no batches; it always has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The batch of a step, from 0 on. Those after it are made meanwhile.
    ///
    /// # Errors
    /// Where a sample cannot be read or augmented.
    pub fn batch(&self, step: u64) -> Result<Batch> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = match ahead.take() {
            Some(ready) if ready.next == step => ready,
            _ => self.start(step),
        };
        let batch = ready.batches.recv();
        *ahead = Some(Ahead { next: step + 1, ..ready });
        batch.unwrap_or_else(|_| Err(Error::internal("the thread that makes batches ended early")))
    }

    /// Starts a thread that makes the batches from a step on. It waits while a few are ready, and ends when nobody takes
    /// them any more.
    fn start(&self, mut step: u64) -> Ahead {
        let (sender, batches) = sync_channel(4);
        let (plan, of_epoch, next) = (self.plan.clone(), self.len(), step);
        // Where the thread cannot be started the sender is dropped, which the receiver reports.
        let _ = std::thread::Builder::new().name("secateur-data".into()).spawn(move || {
            while sender.send(plan.batch(step / of_epoch, (step % of_epoch) as usize)).is_ok() {
                step += 1;
            }
        });
        Ahead { next, batches }
    }
}

impl Plan {
    fn batch(&self, epoch: u64, number: usize) -> Result<Batch> {
        let order = self.order(epoch);
        let indices = &order[number * self.batch..][..self.batch];
        if self.augment.is_none() {
            return self.inner.remember(indices);
        }
        let stream =
            |sample: usize| Stream::new(self.seed ^ epoch.rotate_left(32), &format!("augment {sample}"));
        let change = |sample, values| {
            let stream = stream(sample);
            self.augment.apply(values, |i| stream.draw(i))
        };
        self.inner.make(indices, false, Some(&change))
    }

    /// The samples in the order of an epoch.
    fn order(&self, epoch: u64) -> Arc<Vec<usize>> {
        let mut kept = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = kept.as_ref().filter(|(of, _)| *of == epoch) {
            return order.clone();
        }
        let stream = Stream::new(self.seed, &format!("epoch {epoch}"));
        let mut order = self.inner.indices.clone();
        order.sort_by_cached_key(|&sample| (stream.draw(sample as u64), sample));
        let order = Arc::new(order);
        *kept = Some((epoch, order.clone()));
        order
    }
}
