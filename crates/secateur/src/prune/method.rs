//! How a pruning method is written: `criterion[/pattern][@scope][+allocation]`, such as `l1`,
//! `l1@global`, `l2/channel`, `l1/2:4`, `l1/4x4@global`, `lamp@global`, `l1+erk`.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::prune::coverage::DENSE_BY_DEFAULT;
use crate::prune::criteria::{CRITERIA, Criterion, CriterionInfo, Order};
use crate::prune::patterns::PatternInfo;
use crate::prune::{ALLOCATIONS, Allocation, PATTERNS, Pattern, Scope};

/// A criterion, the shape zeros take, what is ranked together, and each layer's target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method {
    /// The rule that gives scores.
    pub criterion: Criterion,
    /// The shape that zeros take.
    pub pattern: Pattern,
    /// What is ranked together.
    pub scope: Scope,
    /// Each layer's target.
    pub allocation: Allocation,
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
        refuses: |method| {
            method.criterion == Criterion::Norm(Order::ZERO)
                && matches!(method.pattern, Pattern::Unstructured | Pattern::Nm(_))
        },
        reason: "the order 0 gives every weight that is not zero the same score: use it for channels or blocks",
    },
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
    pub criterion: &'static CriterionInfo,
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
        Method { pattern: self.pattern.pattern, scope: self.scope, ..Method::new(self.criterion.criterion) }
    }
}

/// Every criterion with every pattern and scope.
pub fn matrix() -> Vec<Combination> {
    let mut cells = Vec::new();
    for criterion in CRITERIA {
        for pattern in PATTERNS {
            for &scope in Scope::ALL {
                let method = Method { pattern: pattern.pattern, scope, ..Method::new(criterion.criterion) };
                cells.push(Combination { criterion, pattern, scope, verdict: method.verdict() });
            }
        }
    }
    cells
}

impl Method {
    /// A method of single weights per layer.
    pub fn new(criterion: Criterion) -> Self {
        Method {
            criterion,
            pattern: Pattern::default(),
            scope: Scope::default(),
            allocation: Allocation::default(),
        }
    }

    /// Whether the combination has a meaning.
    ///
    /// # Errors
    /// The reason, in a sentence, where it has none.
    pub fn verdict(&self) -> Result<(), &'static str> {
        match RULES.iter().find(|rule| (rule.refuses)(self)) {
            Some(rule) => Err(rule.reason),
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

    /// Reads `criterion[/pattern][@scope][+allocation]`.
    fn from_str(text: &str) -> Result<Self> {
        let (rest, allocation) = split(text, '+');
        let (rest, scope) = split(rest, '@');
        let (criterion, pattern) = split(rest, '/');
        let parse = || -> Result<Method> {
            if criterion.is_empty() {
                let form = "a method is written criterion[/pattern][@scope][+allocation], such as l1@global";
                return Err(Error::usage(form));
            }
            let method = Method {
                criterion: Criterion::parse(criterion)?,
                pattern: pattern.map_or(Ok(Pattern::default()), Pattern::parse)?,
                scope: scope.map_or(Ok(Scope::default()), Scope::parse)?,
                allocation: allocation.map_or(Ok(Allocation::default()), Allocation::parse)?,
            };
            if allocation.is_some() && method.scope == Scope::Global {
                return Err(Error::usage(GLOBAL_ALLOCATION));
            }
            Ok(method)
        };
        let method = parse().map_err(|e| e.at(format!("method `{text}`")))?;
        method.check()?;
        Ok(method)
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
        Ok(())
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

/// The page about methods in the documentation: all tables, and the matrix of combinations with the
/// reasons for those that are refused.
pub fn methods_markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    let mut table = |title: &str, head: &[&str], rows: &[Vec<String>]| {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let _ = write!(page, "\n## {title}\n\n");
        page += &line(&head.iter().map(|h| (*h).to_string()).collect::<Vec<_>>());
        page += &format!("|{}\n", "---|".repeat(head.len()));
        rows.iter().for_each(|row| page += &line(row));
    };
    let code = |text: &str| format!("`{text}`");
    let criteria: Vec<Vec<String>> = CRITERIA
        .iter()
        .map(|c| vec![code(c.name), c.summary.into(), code(c.formula), c.source.into()])
        .collect();
    table("Criteria", &["criterion", "", "score (higher = keep)", "source"], &criteria);
    let patterns: Vec<Vec<String>> =
        PATTERNS.iter().map(|p| vec![code(p.name), p.summary.into(), p.source.into()]).collect();
    table("Patterns", &["pattern", "zeros are", "source"], &patterns);
    let scopes: Vec<Vec<String>> =
        Scope::ALL.iter().map(|&s| vec![code(s.name()), s.summary().into()]).collect();
    table("Scopes", &["scope", "ranked together"], &scopes);
    let allocations: Vec<Vec<String>> = ALLOCATIONS
        .iter()
        .map(|a| vec![code(a.name), a.summary.into(), code(a.formula), a.source.into()])
        .collect();
    table("Allocations", &["allocation", "", "density d of a layer", "source"], &allocations);

    let dense: Vec<Vec<String>> =
        DENSE_BY_DEFAULT.iter().map(|d| vec![d.name.into(), d.recognised.into(), d.source.into()]).collect();
    table("Dense by default", &["weights", "recognised by", "as in, or since"], &dense);

    let mut reasons: Vec<&str> = Vec::new();
    let cells = matrix();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for row in cells.chunks(Scope::ALL.len()) {
        let mut cells = vec![code(row[0].criterion.name), code(row[0].pattern.name)];
        for cell in row {
            cells.push(match cell.verdict {
                Ok(()) => "yes".to_string(),
                Err(reason) => {
                    let known = reasons.iter().position(|r| *r == reason);
                    let number = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!("no ({})", number + 1)
                }
            });
        }
        rows.push(cells);
    }
    let mut head = vec!["criterion", "pattern"];
    head.extend(Scope::ALL.iter().map(|s| s.name()));
    table("What goes together", &head, &rows);
    page.push('\n');
    for (i, reason) in reasons.iter().enumerate() {
        let _ = writeln!(page, "{}. {reason}.", i + 1);
    }
    for rule in RULES.iter().filter(|rule| !reasons.contains(&rule.reason)) {
        let _ = writeln!(page, "\nOf allocations: {}.", rule.reason);
    }
    page + UNITS + DIFFERENCES
}

const INTRODUCTION: &str = "\
# Methods

A method is written `criterion[/pattern][@scope][+allocation]`, such as `l1`, `l1@global`,
`l2/channel`, `l1/2:4`, `l1/4x4@global`, `lamp@global`, `l1+erk`. The parts that are left out are `unstructured`,
`layer` and `uniform`. This page is made from the program's tables.
";

const UNITS: &str = "
## Channels, blocks, N:M

- The score of a channel or block is a mean over its n weights, so that the smaller blocks at the edges of a
  tensor compare with whole ones.
- `channel@global` divides Σ|w_i|^P by its mean over the layer's channels that are not pruned yet, as
  Torch-Pruning does (DepGraph, Fang et al. 2023, arXiv:2301.12900); for other criteria and for blocks, whose
  scores compare as they are, nothing is divided.
- A sparsity of channels or blocks counts channels or blocks, by allocations too.
- `row` ranks blocks within a row of blocks.
- N:M keeps at most N of each M consecutive input channels; where M does not divide them, at most N of the rest.
  Grouped convolutions are divided within their groups. `--layer 'GLOB=0'` leaves a layer dense.
- What is dense by default takes part where `--include` names it by a glob that matches nothing else, such as
  `--include lm_head*`, beside others as in `--include '*,lm_head*'`. `inspect`, `prune` and `verify` name what is dense.
- An allocation meets the sparsity over all selected layers together; `--count` is then the count of all together.
- Scores from a file may be any floats; of a channel or block the mean counts.
";

const DIFFERENCES: &str = "
## Counting, and torch.nn.utils.prune

Exactly k = round(sparsity · size) weights (or channels) are zero afterwards, halves rounded to even
as PyTorch does.

| | here | PyTorch |
|---|---|---|
| amount | the share of zeros in the end, those already zero included; `--of-remaining` is PyTorch's meaning | the share of what is not pruned yet |
| ties | the lower index goes first, always exactly k | arbitrary |
| NaN weights | an error that names the tensor and the position | ranked largest |
| output channels | their bias and the batch-norm's scale and bias go along; `--weights-only` leaves them | the bias stays |
| a weight used in several places | pruned once | pruned once per name |
";

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
        assert!(message("l0/2:4").contains("same score"));
        assert!(message("l1/channel:x").contains("out, in or a dimension"));
        assert!(message("l0").contains("same score"));
        assert!(message("l1/channel@row").contains("one output channel"));
        assert!(message("l1@global+uniform").contains("leave the allocation out"));
    }

    #[test]
    fn every_combination_is_judged_as_the_parser_does() {
        let cells = matrix();
        assert_eq!(cells.len(), CRITERIA.len() * PATTERNS.len() * Scope::ALL.len());
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

    #[test]
    fn the_page_names_everything() {
        let page = methods_markdown();
        for criterion in CRITERIA {
            assert!(page.contains(&format!("| `{}` |", criterion.name)));
        }
        for name in PATTERNS.iter().map(|p| p.name).chain(ALLOCATIONS.iter().map(|a| a.name)) {
            assert!(page.contains(&format!("| `{name}` |")));
        }
        for dense in DENSE_BY_DEFAULT {
            assert!(page.contains(dense.name));
        }
        for rule in RULES {
            assert!(page.contains(rule.reason));
        }
    }
}
