//! The page about methods in the documentation.

use std::fmt::Write as _;

use super::{Combination, RULES};
use crate::prune::allocation::ALLOCATIONS;
use crate::prune::coverage::DENSE_BY_DEFAULT;
use crate::prune::patterns::PATTERNS;
use crate::prune::registry::{About, Registry};
use crate::prune::scope::Scope;

/// The page about methods in the documentation: all tables, and the matrix of combinations with the
/// reasons for those that are refused.
pub fn methods_markdown(registry: &Registry) -> String {
    let mut page = String::from(INTRODUCTION);
    let about = |about: &About| {
        vec![code(&about.written()), about.summary.into(), code(about.formula), about.source.into()]
    };
    let criteria: Vec<Vec<String>> = registry.criteria().map(|c| about(c.about())).collect();
    table(&mut page, "Criteria", &["criterion", "", "score (higher = keep)", "source"], &criteria);
    let patterns: Vec<Vec<String>> =
        PATTERNS.iter().map(|p| vec![code(p.name), p.summary.into(), p.source.into()]).collect();
    table(&mut page, "Patterns", &["pattern", "zeros are", "source"], &patterns);
    let scopes: Vec<Vec<String>> =
        Scope::ALL.iter().map(|&s| vec![code(s.name()), s.summary().into()]).collect();
    table(&mut page, "Scopes", &["scope", "ranked together"], &scopes);
    let allocations: Vec<Vec<String>> = ALLOCATIONS
        .iter()
        .map(|a| vec![code(a.name), a.summary.into(), code(a.formula), a.source.into()])
        .collect();
    table(&mut page, "Allocations", &["allocation", "", "density d of a layer", "source"], &allocations);
    let solvers: Vec<Vec<String>> = registry.solvers().map(|s| about(s.about())).collect();
    table(&mut page, "Solvers", &["solver", "", "new weights w'", "source"], &solvers);
    let dense: Vec<Vec<String>> =
        DENSE_BY_DEFAULT.iter().map(|d| vec![d.name.into(), d.recognised.into(), d.source.into()]).collect();
    table(&mut page, "Dense by default", &["weights", "recognised by", "as in, or since"], &dense);
    combinations(&mut page, &registry.matrix());
    page + UNITS + DIFFERENCES
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn table(page: &mut String, title: &str, head: &[&str], rows: &[Vec<String>]) {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let _ = write!(page, "\n## {title}\n\n");
    *page += &line(&head.iter().map(|h| (*h).to_string()).collect::<Vec<_>>());
    *page += &format!("|{}\n", "---|".repeat(head.len()));
    rows.iter().for_each(|row| *page += &line(row));
}

/// The matrix of combinations: rows of cells that say yes or no, and the reasons by their numbers.
pub fn verdicts(cells: &[Combination]) -> (Vec<Vec<String>>, Vec<&'static str>) {
    let mut reasons: Vec<&str> = Vec::new();
    let mut number = |reason: &'static str| {
        let known = reasons.iter().position(|r| *r == reason);
        known.unwrap_or_else(|| {
            reasons.push(reason);
            reasons.len() - 1
        }) + 1
    };
    let rows = cells
        .chunks(Scope::ALL.len())
        .map(|row| {
            let verdict = |cell: &Combination| match cell.verdict {
                Ok(()) => "yes".to_string(),
                Err(reason) => format!("no ({})", number(reason)),
            };
            let names = [row[0].criterion.about().written(), row[0].pattern.name.to_string()];
            names.into_iter().chain(row.iter().map(verdict).collect::<Vec<_>>()).collect()
        })
        .collect();
    (rows, reasons)
}

fn combinations(page: &mut String, cells: &[Combination]) {
    let (mut rows, reasons) = verdicts(cells);
    rows.iter_mut().for_each(|row| row[..2].iter_mut().for_each(|name| *name = code(name)));
    let mut head = vec!["criterion", "pattern"];
    head.extend(Scope::ALL.iter().map(|s| s.name()));
    table(page, "What goes together", &head, &rows);
    page.push('\n');
    for (i, reason) in reasons.iter().enumerate() {
        let _ = writeln!(page, "{}. {reason}.", i + 1);
    }
    for rule in RULES.iter().filter(|rule| !reasons.contains(&rule.reason)) {
        let _ = writeln!(page, "\nOf allocations: {}.", rule.reason);
    }
}

const INTRODUCTION: &str = "\
# Methods

A method is written `criterion[/pattern][@scope][+allocation][+solver]`, such as `l1`, `l1@global`,
`l2/channel`, `l1/2:4`, `l1/4x4@global`, `lamp@global`, `l1+erk`. The parts that are left out are `unstructured`,
`layer` and `uniform`. This page is made from the program's tables.
";

const UNITS: &str = "
## Channels, blocks, N:M

- The score of a channel or block is a mean over its n weights, so that the smaller blocks at the edges of a
  tensor compare with whole ones. That of `taylor` is what removing all of it changes in the loss; `mean-activation`
  and `apoz` look at what a channel gives.
- `channel@global` divides Σ|w_i|^P by its mean over the layer's channels that are not pruned yet, as
  Torch-Pruning does (DepGraph, Fang et al. 2023, arXiv:2301.12900); for other criteria and for blocks, whose
  scores compare as they are, nothing is divided.
- A sparsity of channels or blocks counts channels or blocks, by allocations too.
- `row` ranks blocks within a row of blocks.
- N:M keeps at most N of each M consecutive input channels; where M does not divide them, at most N of the rest.
  Grouped convolutions are divided within their groups; option `overrides=GLOB=0` leaves a layer dense.
- What is dense by default takes part where option `include` names it by a glob that matches nothing else, such as
  option `include=lm_head*`, or option `include=*,lm_head*` together with others. `inspect`, `prune` and `verify` list
  what stays dense.
- An allocation meets the sparsity over all selected layers together; option `count` is then the count of all together.
- Scores from a file may be any floats; of a channel or block the mean counts.
";

const DIFFERENCES: &str = "
## Counting, and torch.nn.utils.prune

Exactly k = round(sparsity · size) weights (or channels) are zero afterwards, halves rounded to even
as PyTorch does.

| | here | PyTorch |
|---|---|---|
| amount | the share of zeros in the end, those already zero included; option `of_remaining` is PyTorch's meaning | the share of what is not pruned yet |
| ties | the lower index goes first, always exactly k | arbitrary |
| NaN weights | an error that names the tensor and the position | ranked largest |
| output channels | their bias and the batch-norm's scale and bias go along; option `weights_only` leaves them | the bias stays |
| a weight used in several places | pruned once | pruned once per name |
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_everything() {
        let registry = Registry::default();
        let page = methods_markdown(&registry);
        let criteria = registry.criteria().map(|c| c.about().written());
        for name in criteria.chain(registry.solvers().map(|s| s.about().written())) {
            assert!(page.contains(&format!("| `{name}` |")));
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
