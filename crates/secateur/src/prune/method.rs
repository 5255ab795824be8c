//! How a pruning method is written: `criterion[/pattern][@scope][+allocation][+solver…]`, such as `l1`,
//! `l1@global`, `l2/channel`, `l1/2:4`, `l1/4x4@global`, `lamp@global`, `l1+erk`.

mod page;

use std::fmt;
use std::str::FromStr;

use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

use super::allocation::{ALLOCATIONS, Allocation};
use super::criteria::Criterion;
use super::evidence::Need;
use super::patterns::{PATTERNS, Pattern, PatternInfo};
use super::registry::{Choice, Registry};
use super::scope::Scope;
use super::solvers::Solver;
use crate::near::did_you_mean;

pub use page::{methods_markdown, verdicts};

/// A criterion, the shape zeros take, what is ranked together, each layer's target, and what solves for new weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method {
    /// The rule that gives scores.
    pub criterion: Choice<dyn Criterion>,
    /// The shape that zeros take.
    pub pattern: Pattern,
    /// What is ranked together.
    pub scope: Scope,
    /// Each layer's target.
    pub allocation: Allocation,
    /// What changes the weights that stay.
    pub solvers: Solvers,
}

/// The solvers of a method, in the order in which they run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Solvers([Option<Choice<dyn Solver>>; Solvers::MOST]);

impl Solvers {
    /// The most solvers that run one after the other.
    pub const MOST: usize = 4;

    /// The solvers.
    pub fn iter(&self) -> impl Iterator<Item = Choice<dyn Solver>> + '_ {
        self.0.iter().filter_map(|solver| *solver)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }

    fn push(&mut self, solver: Choice<dyn Solver>) -> Result<()> {
        let free = self.0.iter_mut().find(|slot| slot.is_none());
        let slot = free.ok_or_else(|| Error::usage(format!("at most {} solvers can follow", Self::MOST)))?;
        *slot = Some(solver);
        Ok(())
    }
}

impl Default for Method {
    /// `l1`: magnitude, single weights, layer by layer.
    fn default() -> Self {
        "l1".parse().expect("a method of the table")
    }
}

/// A combination without meaning and the reason.
struct Rule {
    /// Whether a method falls under the rule.
    refuses: fn(&Method) -> bool,
    reason: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        refuses: |method| matches!(method.pattern, Pattern::Channel(_)) && method.scope == Scope::Row,
        reason: "a row belongs to one output channel: there are no channels to rank within it",
    },
    Rule {
        refuses: |method| matches!(method.pattern, Pattern::Nm(_)) && method.scope != Scope::Layer,
        reason: "N:M ranks within each group of M weights and nowhere else: leave the scope out",
    },
    Rule {
        refuses: |method| matches!(method.pattern, Pattern::Nm(_)) && method.allocation.divides(),
        reason: "N:M fixes the sparsity of every layer: leave the allocation out",
    },
    Rule {
        refuses: |method| method.scope == Scope::Global && method.allocation.divides(),
        reason: GLOBAL_ALLOCATION,
    },
];

const GLOBAL_ALLOCATION: &str =
    "the global ranking itself gives each layer its share: leave the allocation out";

/// One cell of the matrix of combinations.
#[derive(Clone, Copy, Debug)]
pub struct Combination {
    /// The criterion.
    pub criterion: Choice<dyn Criterion>,
    /// The pattern; for one with parameters, an example.
    pub pattern: &'static PatternInfo,
    /// The scope.
    pub scope: Scope,
    /// `Ok` where the combination has a meaning, and otherwise the reason.
    pub verdict: Result<(), &'static str>,
}

impl Combination {
    /// The method as it is written, whether it has a meaning or not.
    pub fn method(&self) -> Method {
        Method { pattern: self.pattern.pattern, scope: self.scope, ..Method::new(self.criterion) }
    }
}

impl Registry {
    /// The method that a text names: `criterion[/pattern][@scope][+allocation][+solver…]`.
    ///
    /// # Errors
    /// `Usage` where a part has no meaning, or the parts have none together.
    pub fn method(&self, text: &str) -> Result<Method> {
        let method = self.parse_method(text).map_err(|e| e.at(format!("method `{text}`")))?;
        method.check()?;
        Ok(method)
    }

    fn parse_method(&self, text: &str) -> Result<Method> {
        let (rest, mut further) = split(text, '+');
        let (rest, scope) = split(rest, '@');
        let (criterion, pattern) = split(rest, '/');
        if criterion.is_empty() {
            return Err(Error::usage(
                "a method is written criterion[/pattern][@scope][+allocation][+solver], such as l1@global",
            ));
        }
        let mut method = Method {
            pattern: pattern.map_or(Ok(Pattern::default()), Pattern::parse)?,
            scope: scope.map_or(Ok(Scope::default()), Scope::parse)?,
            ..Method::new(self.criterion(criterion)?)
        };
        let mut allocation = None;
        while let Some(text) = further {
            let (found, rest) = Allocation::leading(text);
            if let Some(found) = found {
                if method.scope == Scope::Global {
                    return Err(Error::usage(GLOBAL_ALLOCATION));
                }
                if allocation.replace(found).is_some() {
                    return Err(Error::usage("one allocation is enough: leave the others out"));
                }
                further = rest;
                continue;
            }
            let (name, rest) = split(text, '+');
            let solver = self.solver(name).map_err(|_| {
                let solvers = self.solvers().map(|solver| solver.about().written());
                let names: Vec<String> =
                    ALLOCATIONS.iter().map(|a| a.name.to_string()).chain(solvers).collect();
                let near = did_you_mean(name, names.iter().map(String::as_str));
                Error::usage(format!("no allocation or solver is called `{name}`{near}"))
            })?;
            method.solvers.push(solver)?;
            further = rest;
        }
        method.allocation = allocation.unwrap_or_default();
        Ok(method)
    }

    /// Every criterion with every pattern and scope.
    pub fn matrix(&self) -> Vec<Combination> {
        let mut cells = Vec::new();
        for criterion in self.criteria() {
            for pattern in PATTERNS {
                for &scope in Scope::ALL {
                    let method = Method { pattern: pattern.pattern, scope, ..Method::new(criterion) };
                    cells.push(Combination { criterion, pattern, scope, verdict: method.verdict() });
                }
            }
        }
        cells
    }
}

impl Method {
    /// A method of single weights per layer.
    pub fn new(criterion: Choice<dyn Criterion>) -> Self {
        Method {
            criterion,
            pattern: Pattern::default(),
            scope: Scope::default(),
            allocation: Allocation::default(),
            solvers: Solvers::default(),
        }
    }

    /// Whether its criterion or a solver needs something besides the weights.
    pub fn needs(&self, need: &Need) -> bool {
        self.criterion.needs(need) || self.solvers.iter().any(|solver| solver.needs(need))
    }

    /// Whether the combination has a meaning.
    ///
    /// # Errors
    /// The reason, in a sentence, where it has none.
    pub fn verdict(&self) -> Result<(), &'static str> {
        let own = self.criterion.refuses(self.criterion.parameter(), self.pattern, self.scope);
        match own.or_else(|| RULES.iter().find(|rule| (rule.refuses)(self)).map(|rule| rule.reason)) {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    /// The sparsities that it is run at of those that are listed for all methods, rising: the one that its pattern
    /// fixes, whatever is listed.
    pub fn sparsities(&self, listed: &[f64]) -> Vec<f64> {
        if let Some(fixed) = self.pattern.sparsity() {
            return vec![fixed];
        }
        let mut sparsities = listed.to_vec();
        sparsities.sort_by(f64::total_cmp);
        sparsities.dedup();
        sparsities
    }

    /// Checks that the combination has a meaning.
    ///
    /// # Errors
    /// `Usage` with the reason where it has none.
    pub fn check(&self) -> Result<()> {
        self.verdict().map_err(|reason| Error::usage(format!("method `{self}`: {reason}")))
    }
}

impl FromStr for Method {
    type Err = Error;

    /// Reads a method of the built-in criteria and solvers, as [`Registry::method`] does.
    fn from_str(text: &str) -> Result<Self> {
        Registry::default().method(text)
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(head, tail)| (head, Some(tail)))
}

impl fmt::Display for Method {
    /// The shortest way to write the method.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.criterion)?;
        if self.pattern != Pattern::default() {
            write!(f, "/{}", self.pattern)?;
        }
        if self.scope != Scope::default() {
            write!(f, "@{}", self.scope)?;
        }
        if self.allocation != Allocation::default() {
            write!(f, "+{}", self.allocation)?;
        }
        self.solvers.iter().try_for_each(|solver| write!(f, "+{solver}"))
    }
}

impl TryFrom<String> for Method {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Method> for String {
    fn from(method: Method) -> Self {
        method.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Method {
        text.parse().unwrap()
    }

    #[test]
    fn methods_are_printed_as_they_are_read() {
        for text in [
            "l1",
            "l1@global",
            "l1/channel",
            "l1/channel:1",
            "l1/channel:-2",
            "l1/channel:in",
            "l2/channel",
            "ln:0.5",
            "linf",
            "l-inf/channel",
            "l0/channel:0",
            "random@global",
            "random/channel@global",
            "l1/channel@global",
            "l1@row",
            "l1/2:4",
            "random/1:16",
            "l2/4x4@row",
            "l1/16x1@global",
            "lamp@global",
            "lamp/1x4",
            "file/channel",
            "l1+erk",
            "l1@row+uniform+",
            "l2/channel+erk",
            "l1+kernel-sum",
            "l1@global+kernel-sum",
            "l1+uniform++kernel-sum",
            "l2/2:4+kernel-sum",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("l1/unstructured@layer+uniform").to_string(), "l1");
        assert_eq!(parse("l1/neuron:out").to_string(), "l1/channel");
        assert_eq!(parse("ln:2").to_string(), "l2");
    }

    #[test]
    fn mistakes_are_explained() {
        let message = |text: &str| text.parse::<Method>().unwrap_err().to_string();
        assert!(message("").contains("such as l1@global"));
        assert!(message("l1@globl").contains("did you mean `global`"));
        assert!(message("l1/chanel").contains("did you mean `channel`"));
        assert!(message("l3").contains("`l2`"));
        assert!(message("l1+erkk").contains("did you mean `erk`"));
        assert!(message("l1/4:4").contains("0 < N < M"));
        assert!(message("l1/0:4").contains("0 < N < M"));
        assert!(message("l1/2:99999999999999999999").contains("0 < N < M"));
        assert!(message("l1/1x1").contains("above 1"));
        assert!(message("l1/0x4").contains("above 1"));
        assert!(message("l1/2:4@row").contains("leave the scope out"));
        assert!(message("l1/2:4@global").contains("leave the scope out"));
        assert!(message("l1/2:4+erk").contains("leave the allocation out"));
        assert!(message("lamp@global+erk").contains("leave the allocation out"));
        assert!(message("l1+kernel-sun").contains("did you mean `kernel-sum`"));
        assert!(message("l1+erk+uniform").contains("one allocation"));
        assert!(message("l1+erk+").contains("no allocation or solver is called ``"));
        let five = "+kernel-sum".repeat(5);
        assert!(message(&format!("l1{five}")).contains("at most 4 solvers"));
        assert!(message("l0/2:4").contains("same score"));
        assert!(message("l1/channel:x").contains("out, in or a dimension"));
        assert!(message("l0").contains("same score"));
        assert!(message("l1/channel@row").contains("one output channel"));
        assert!(message("l1@global+uniform").contains("leave the allocation out"));
    }

    #[test]
    fn every_combination_is_judged_as_the_parser_does() {
        let registry = Registry::default();
        let cells = registry.matrix();
        assert_eq!(cells.len(), registry.criteria().count() * PATTERNS.len() * Scope::ALL.len());
        for cell in cells {
            assert_eq!(cell.method().to_string().parse::<Method>().is_ok(), cell.verdict.is_ok());
        }
    }

    #[test]
    fn recipes_hold_methods_as_text() {
        let text = serde_json::to_string(&parse("l1/channel:1")).unwrap();
        assert_eq!(text, "\"l1/channel:1\"");
        assert!(serde_json::from_str::<Method>("\"l1/channel@row\"").is_err());
    }
}
