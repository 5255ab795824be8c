//! A model with its analysis, each part computed once, on first use.

use std::collections::HashMap;
use std::sync::OnceLock;

use secateur_model::infer::{Binding, Inference};
use secateur_model::prunable::{self, Entry};
use secateur_model::{Model, Result, TensorId};

use crate::names;

/// A model with its analysis. Work that uses a model more than once, such as a sweep, shares one.
#[derive(Debug)]
pub struct Subject<'m> {
    /// The model.
    pub model: &'m Model,
    entries: OnceLock<Vec<Entry>>,
    with_dense_outputs: OnceLock<Vec<Entry>>,
    parameters: OnceLock<Vec<u64>>,
    names: OnceLock<HashMap<TensorId, String>>,
    inference: OnceLock<Inference>,
}

impl<'m> Subject<'m> {
    /// A model whose analysis is not computed yet.
    pub fn of(model: &'m Model) -> Self {
        Subject {
            model,
            entries: OnceLock::new(),
            with_dense_outputs: OnceLock::new(),
            parameters: OnceLock::new(),
            names: OnceLock::new(),
            inference: OnceLock::new(),
        }
    }

    /// Its tensors, each prunable or with the reason why not.
    ///
    /// # Errors
    /// As [`prunable::view`].
    pub fn entries(&self) -> Result<&[Entry]> {
        let compute = || {
            #[cfg(test)]
            tests::ANALYSED.set(tests::ANALYSED.get() + 1);
            prunable::view(self.model)
        };
        once(&self.entries, compute).map(Vec::as_slice)
    }

    /// The same where output channels are pruned: layers whose channels are the model's outputs stay dense by default.
    ///
    /// # Errors
    /// As [`prunable::view`].
    pub fn entries_with_dense_outputs(&self) -> Result<&[Entry]> {
        let compute = || {
            let mut entries = self.entries()?.to_vec();
            prunable::leave_outputs_dense(self.model, &mut entries);
            Ok(entries)
        };
        once(&self.with_dense_outputs, compute).map(Vec::as_slice)
    }

    /// How many parameters each of [`Subject::entries`] stands for: see [`prunable::parameters`].
    ///
    /// # Errors
    /// As [`prunable::view`].
    pub fn parameters(&self) -> Result<&[u64]> {
        once(&self.parameters, || Ok(prunable::parameters(self.model, self.entries()?))).map(Vec::as_slice)
    }

    /// What tables call the tensors that can be pruned.
    ///
    /// # Errors
    /// As [`prunable::view`].
    pub fn names(&self) -> Result<&HashMap<TensorId, String>> {
        once(&self.names, || Ok(names::names(self.model, self.entries()?)))
    }

    /// As [`Subject::names`], by the tensors' paths.
    ///
    /// # Errors
    /// As [`prunable::view`].
    pub fn layer_names(&self) -> Result<HashMap<String, String>> {
        let by_path =
            |(tensor, name): (&TensorId, &String)| (self.model.tensor(*tensor).path.clone(), name.clone());
        Ok(self.names()?.iter().map(by_path).collect())
    }

    /// Types, shapes and costs for one sample.
    ///
    /// # Errors
    /// As [`Inference::of`].
    pub fn inference(&self) -> Result<&Inference> {
        once(&self.inference, || Inference::of(self.model, &Binding::default()))
    }
}

/// The value of a cell, computed where it is empty. An error is not kept.
fn once<T>(cell: &OnceLock<T>, compute: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(found) = cell.get() {
        return Ok(found);
    }
    let computed = compute()?;
    Ok(cell.get_or_init(|| computed))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// How many models this thread has analysed.
        pub(crate) static ANALYSED: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn each_part_is_computed_once() {
        let cell = OnceLock::new();
        let mut times = 0;
        assert!(once(&cell, || Err::<usize, _>(secateur_model::Error::input("damaged"))).is_err());
        for _ in 0..3 {
            let found = once(&cell, || {
                times += 1;
                Ok(7)
            });
            assert_eq!(found.ok(), Some(&7));
        }
        assert_eq!(times, 1);
    }

    #[test]
    fn what_is_asked_for_again_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let model = secateur_model::io::read(crate::demo::unpack(folder.path()).unwrap().model).unwrap();
        let subject = Subject::of(&model);
        assert!(std::ptr::eq(subject.entries().unwrap(), subject.entries().unwrap()));
        assert!(std::ptr::eq(subject.names().unwrap(), subject.names().unwrap()));
        assert!(std::ptr::eq(subject.inference().unwrap(), subject.inference().unwrap()));
        assert_eq!(subject.entries().unwrap(), prunable::view(&model).unwrap());
        assert_eq!(subject.layer_names().unwrap(), crate::layer_names(&model).unwrap());
    }
}
