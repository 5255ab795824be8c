//! The criteria and solvers that a method can name: built-in ones, and those a program adds.

use std::fmt;
use std::ops::Deref;

use secateur_model::{Error, Result};

use super::allocation::ALLOCATIONS;
use super::criteria::{CRITERIA, Criterion};
use super::evidence::Need;
use super::solvers::{SOLVERS, Solver};
use crate::near::did_you_mean;

/// What a criterion or solver is, as help texts, errors and the documentation show it.
#[derive(Debug)]
pub struct About {
    /// The name in a method, such as `l1`. It holds none of the characters `/`, `@`, `+` and `:`.
    pub name: &'static str,
    /// Other names that are read for it.
    pub aliases: &'static [&'static str],
    /// The number that follows the name, as in `ln:0.5`, if it takes one.
    pub parameter: Option<Parameter>,
    /// One sentence.
    pub summary: &'static str,
    /// For a criterion the score of a channel or block of n weights w_i, of a single weight with n = 1; for a
    /// solver the new weights.
    pub formula: &'static str,
    /// The paper and equation, or the program, that defines it.
    pub source: &'static str,
    /// What it needs besides the weights.
    pub needs: &'static [&'static Need],
}

/// A number that follows a name.
#[derive(Debug)]
pub struct Parameter {
    /// How help texts write it: the `P` of `ln:P`.
    pub symbol: &'static str,
    /// A valid value, for examples and tests.
    pub example: f64,
    /// Reads it; `Usage` where the text has no meaning.
    pub read: fn(&str) -> Result<f64>,
    /// Values that have a name of their own in the same table: `ln:1` is `l1`.
    pub named: &'static [(f64, &'static str)],
}

impl About {
    /// The name as help texts write it, with the parameter's symbol: `ln:P`.
    pub fn written(&self) -> String {
        let parameter = self.parameter.as_ref().map(|p| format!(":{}", p.symbol)).unwrap_or_default();
        format!("{}{parameter}", self.name)
    }

    fn is_called(&self, text: &str) -> bool {
        self.name == text || self.aliases.contains(&text)
    }
}

/// An entry of a table.
pub trait Described: fmt::Debug + Sync {
    /// What it is.
    fn about(&self) -> &About;
}

/// An entry of a table as a method names it: with its parameter.
pub struct Choice<T: ?Sized + 'static> {
    entry: &'static T,
    parameter: Option<f64>,
}

impl<T: Described + ?Sized> Choice<T> {
    /// What it is.
    pub fn about(&self) -> &'static About {
        self.entry.about()
    }

    /// The number that follows the name.
    pub fn parameter(&self) -> Option<f64> {
        self.parameter
    }

    /// Whether it needs something besides the weights.
    pub fn needs(&self, need: &Need) -> bool {
        self.about().needs.contains(&need)
    }

    /// An entry with the parameter of its examples.
    fn example(entry: &'static T) -> Self {
        Choice { entry, parameter: entry.about().parameter.as_ref().map(|p| p.example) }
    }

    /// Reads a name, with its parameter where it takes one.
    fn parse(text: &str, table: &[&'static T], kind: &str) -> Result<Self> {
        let (name, value) = text.split_once(':').map_or((text, None), |(name, value)| (name, Some(value)));
        let find = |name: &str| table.iter().find(|entry| entry.about().is_called(name));
        match (find(name), value) {
            (Some(entry), None) if entry.about().parameter.is_none() => {
                Ok(Choice { entry: *entry, parameter: None })
            }
            (Some(entry), value) if let Some(parameter) = &entry.about().parameter => {
                let value = value.ok_or_else(|| {
                    let (written, example) = (entry.about().written(), parameter.example);
                    Error::usage(format!("`{text}` takes a number: `{written}`, such as `{name}:{example}`"))
                })?;
                let value = (parameter.read)(value)?;
                let own = parameter.named.iter().find(|(named, _)| *named == value).and_then(|n| find(n.1));
                Ok(match own {
                    Some(entry) => Choice { entry: *entry, parameter: None },
                    None => Choice { entry: *entry, parameter: Some(value) },
                })
            }
            _ => {
                let names: Vec<String> = table.iter().map(|entry| entry.about().written()).collect();
                let near = did_you_mean(text, names.iter().map(String::as_str));
                Err(Error::usage(format!(
                    "no {kind} is called `{text}`{near} (`secateur methods` says what each is)"
                )))
            }
        }
    }
}

impl<T: ?Sized> Clone for Choice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Choice<T> {}

impl<T: ?Sized> Deref for Choice<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.entry
    }
}

impl<T: Described + ?Sized> PartialEq for Choice<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.about().name, self.parameter) == (other.about().name, other.parameter)
    }
}

impl<T: Described + ?Sized> fmt::Debug for Choice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T: Described + ?Sized> fmt::Display for Choice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.about().name)?;
        self.parameter.map_or(Ok(()), |value| write!(f, ":{value}"))
    }
}

/// The criteria and solvers that methods are made of.
#[derive(Clone, Debug)]
pub struct Registry {
    criteria: Vec<&'static dyn Criterion>,
    solvers: Vec<&'static dyn Solver>,
}

impl Default for Registry {
    /// The built-in criteria and solvers.
    fn default() -> Self {
        Registry { criteria: CRITERIA.to_vec(), solvers: SOLVERS.to_vec() }
    }
}

impl Registry {
    /// Adds a criterion.
    ///
    /// # Errors
    /// `Usage` where its name is taken, or cannot stand in a method.
    pub fn add_criterion(&mut self, criterion: &'static dyn Criterion) -> Result<()> {
        self.check(criterion.about())?;
        self.criteria.push(criterion);
        Ok(())
    }

    /// Adds a solver.
    ///
    /// # Errors
    /// As [`Registry::add_criterion`].
    pub fn add_solver(&mut self, solver: &'static dyn Solver) -> Result<()> {
        self.check(solver.about())?;
        self.solvers.push(solver);
        Ok(())
    }

    /// The criteria, in the order of the table.
    pub fn criteria(&self) -> impl Iterator<Item = Choice<dyn Criterion>> {
        self.criteria.iter().map(|&entry| Choice::example(entry))
    }

    /// The solvers, in the order of the table.
    pub fn solvers(&self) -> impl Iterator<Item = Choice<dyn Solver>> {
        self.solvers.iter().map(|&entry| Choice::example(entry))
    }

    /// The criterion of a name, such as `l1` or `ln:0.5`.
    ///
    /// # Errors
    /// `Usage` where there is none of the name; it lists those there are.
    pub fn criterion(&self, text: &str) -> Result<Choice<dyn Criterion>> {
        Choice::parse(text, &self.criteria, "criterion")
    }

    /// The solver of a name.
    ///
    /// # Errors
    /// As [`Registry::criterion`].
    pub fn solver(&self, text: &str) -> Result<Choice<dyn Solver>> {
        Choice::parse(text, &self.solvers, "solver")
    }

    fn check(&self, about: &About) -> Result<()> {
        let known = self.criteria.iter().map(|c| c.about()).chain(self.solvers.iter().map(|s| s.about()));
        let known: Vec<&About> = known.collect();
        for &name in [&about.name].into_iter().chain(about.aliases) {
            if name.is_empty() || name.contains(['/', '@', '+', ':']) {
                return Err(Error::usage(format!(
                    "`{name}` cannot be a name in a method: expected one without `/`, `@`, `+` and `:`"
                )));
            }
            let allocates = ALLOCATIONS.iter().any(|allocation| allocation.name == name);
            if allocates || known.iter().any(|other| other.is_called(name)) {
                return Err(Error::usage(format!("the name `{name}` is taken: choose another one")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        let registry = Registry::default();
        for criterion in registry.criteria() {
            let printed = criterion.to_string();
            assert_eq!(registry.criterion(&printed).unwrap(), criterion);
            for alias in criterion.about().aliases {
                assert_eq!(registry.criterion(alias).unwrap(), criterion);
            }
        }
        let read = |text: &str| registry.criterion(text).unwrap().to_string();
        assert_eq!(["ln:1", "ln:-inf", "ln:0", "ln:0.5"].map(read), ["l1", "l-inf", "l0", "ln:0.5"]);
        for wrong in ["ln:-1", "ln:nan", "ln:", "ln", "l1:1", "L1", "ln:P", "magnitude"] {
            assert!(registry.criterion(wrong).is_err(), "{wrong}");
        }
        let error = registry.criterion("ln").unwrap_err().to_string();
        assert!(error.contains("such as `ln:0.5`"), "{error}");
    }

    /// The tables could be registered one by one: no name is taken twice, and all can be written.
    #[test]
    fn tables_hold_no_name_twice() {
        let mut registry = Registry { criteria: Vec::new(), solvers: Vec::new() };
        CRITERIA.iter().for_each(|c| registry.add_criterion(*c).unwrap());
        SOLVERS.iter().for_each(|s| registry.add_solver(*s).unwrap());
        assert!(registry.add_criterion(CRITERIA[0]).unwrap_err().to_string().contains("taken"));
        // A method names allocations where it names solvers.
        let erk = About {
            name: "erk",
            aliases: &[],
            parameter: None,
            summary: "",
            formula: "",
            source: "",
            needs: &[],
        };
        assert!(registry.check(&erk).unwrap_err().to_string().contains("taken"));
    }
}
